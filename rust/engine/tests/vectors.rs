//! Vectors of many adverts: one of them is no good, wherever it stands and however that comes out, and nothing is written.

#[macro_use]
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_engine::{Direction, Part, Status};
use weft_wire::Advert;
use world::*;

on_every_transport! {
    a_vector_of_many_adverts_is_written_whole
    a_forged_advert_anywhere_in_a_vector_leaves_nothing_written
    an_advert_that_was_withdrawn_since_it_was_used_leaves_nothing_written
    an_advert_that_ended_since_it_was_used_leaves_nothing_written
    an_advert_to_read_that_pretends_leaves_nothing_written
    an_advert_of_another_life_leaves_nothing_written
    a_size_that_is_a_lie_leaves_nothing_written_however_large_the_write
    a_vector_that_was_refused_says_where_and_the_next_is_written
    two_adverts_that_claim_one_buffer_are_refused_before_anything_is_asked
    adverts_that_differ_only_in_what_their_holder_is_told_are_one
    a_vector_that_is_taken_back_lands_nothing_over_the_next
}

/// What an owner has: buffers of a size, each with its advert.
struct Owned {
    buffers: Vec<Vec<u8>>,
    registrations: Vec<u64>,
    adverts: Vec<Arc<Advert>>,
}

fn owned(pair: &Pair, count: usize, size: usize) -> Owned {
    let mut buffers = vec![vec![0u8; size]; count];
    let (registrations, adverts) = buffers.iter_mut().map(|buffer| advertise(&pair.owner, buffer, true)).unzip();
    Owned { buffers, registrations, adverts }
}

impl Owned {
    /// Ends every right; no byte may be other than zero.
    fn judge_untouched(self, pair: &Pair) {
        for registration in &self.registrations {
            let _ = pair.owner.release(*registration);
        }
        for (index, buffer) in self.buffers.iter().enumerate() {
            assert!(buffer.iter().all(|byte| *byte == 0), "buffer {index} was written to");
        }
    }
}

/// Writes one buffer to each advert, waited for and posted. The code it is refused with, which is the same for both.
fn refused(pair: &Pair, adverts: &[Arc<Advert>], size: usize) -> &'static str {
    let mut data = vec![vec![0xee; size]; adverts.len()];
    let parts: Vec<Part> = adverts.iter().zip(&mut data).map(|(advert, bytes)| part(advert, 0, bytes)).collect();
    let waited = pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).expect_err("it was written");
    let posted = match pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()) {
        Ok(posted) => failed(&posted),
        Err(failure) => failure.code,
    };
    assert_eq!(waited.code, posted);
    posted
}

fn altered(advert: &Arc<Advert>, alter: impl FnOnce(&mut Advert)) -> Arc<Advert> {
    let mut other = (**advert).clone();
    alter(&mut other);
    Arc::new(other)
}

/// The same right with one bit of its proof changed.
fn forged(advert: &Arc<Advert>) -> Arc<Advert> {
    altered(advert, |advert| {
        let mut grant = advert.grant.to_vec();
        *grant.last_mut().expect("a grant ends with its proof") ^= 1;
        advert.grant = grant.into();
    })
}

fn a_vector_of_many_adverts_is_written_whole(pair: Pair) {
    let mut theirs = owned(&pair, 200, 5_000);
    let mut data: Vec<Vec<u8>> = (0..200).map(|index| pattern(3_000, index)).collect();
    for _ in 0..2 {
        let parts: Vec<Part> =
            theirs.adverts.iter().zip(&mut data).map(|(advert, bytes)| part(advert, 1_000, bytes)).collect();
        assert_eq!(pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()), Ok(600_000));
        let posted = pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
        assert_eq!(ended(&posted), Status::Done(600_000));
    }
    for registration in std::mem::take(&mut theirs.registrations) {
        pair.owner.release(registration).unwrap();
    }
    for (buffer, bytes) in theirs.buffers.iter().zip(&data) {
        assert!(buffer[1_000..4_000] == *bytes && buffer[..1_000] == [0; 1_000] && buffer[4_000..] == [0; 1_000]);
    }
}

fn a_forged_advert_anywhere_in_a_vector_leaves_nothing_written(pair: Pair) {
    let theirs = owned(&pair, 12, 400_000);
    for bad in [0, 5, 11] {
        let mut adverts = theirs.adverts.clone();
        adverts[bad] = forged(&adverts[bad]);
        assert_eq!(refused(&pair, &adverts, 400_000), "grant_forged", "advert {bad}");
    }
    theirs.judge_untouched(&pair);
}

fn an_advert_that_was_withdrawn_since_it_was_used_leaves_nothing_written(pair: Pair) {
    let mut theirs = owned(&pair, 6, 100_000);
    // Every lane knows every advert by its handle.
    let mut zeros = vec![vec![0; 100_000]; 6];
    for _ in 0..8 {
        let parts: Vec<Part> =
            theirs.adverts.iter().zip(&mut zeros).map(|(advert, bytes)| part(advert, 0, bytes)).collect();
        pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
        ended(&pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap());
    }
    pair.owner.release(theirs.registrations.pop().expect("six")).unwrap();
    assert_eq!(refused(&pair, &theirs.adverts, 100_000), "extent_lost");
    theirs.judge_untouched(&pair);
}

fn an_advert_that_ended_since_it_was_used_leaves_nothing_written(pair: Pair) {
    let mut theirs = owned(&pair, 2, 100_000);
    let registration = theirs.registrations[1];
    let shortly = pair.owner.advertise(registration, 0, 100_000, true, Duration::from_millis(1_500)).unwrap();
    theirs.adverts[1] = Arc::new(shortly);
    let ends = Instant::now() + Duration::from_millis(1_550);
    let mut zeros = vec![0; 100_000];
    let parts = [part(&theirs.adverts[1], 0, &mut zeros)];
    pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
    ended(&pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap());
    std::thread::sleep(ends.saturating_duration_since(Instant::now()));
    assert_eq!(refused(&pair, &theirs.adverts, 100_000), "grant_expired");
    theirs.judge_untouched(&pair);
}

fn an_advert_to_read_that_pretends_leaves_nothing_written(pair: Pair) {
    let mut theirs = owned(&pair, 3, 100_000);
    let readable = pair.owner.advertise(theirs.registrations[2], 0, 100_000, false, Duration::from_secs(60)).unwrap();
    theirs.adverts[2] = altered(&Arc::new(readable), |advert| advert.writable = true);
    assert_eq!(refused(&pair, &theirs.adverts, 100_000), "read_only");
    // One that pretends in its grant as well is forged.
    theirs.adverts[2] = altered(&theirs.adverts[2], |advert| {
        let mut grant = advert.grant.to_vec();
        (grant[4], grant[5]) = (2, 3);
        advert.grant = grant.into();
    });
    assert_eq!(refused(&pair, &theirs.adverts, 100_000), "grant_forged");
    theirs.judge_untouched(&pair);
}

fn an_advert_of_another_life_leaves_nothing_written(pair: Pair) {
    let theirs = owned(&pair, 3, 100_000);
    let mut adverts = theirs.adverts.clone();
    adverts[1] = altered(&adverts[1], |advert| advert.incarnation ^= 1);
    assert_eq!(refused(&pair, &adverts, 100_000), "extent_lost");
    // One of the asker's own memory is good, and not here.
    let mut own = vec![0; 100_000];
    adverts[1] = advertise(&pair.other, &mut own, true).1;
    assert_eq!(refused(&pair, &adverts, 100_000), "extent_lost");
    theirs.judge_untouched(&pair);
}

fn a_size_that_is_a_lie_leaves_nothing_written_however_large_the_write(pair: Pair) {
    let size = 9 << 20;
    let mut theirs = owned(&pair, 1, size);
    let advert =
        pair.owner.advertise(theirs.registrations[0], 0, size as u64 - 1, true, Duration::from_secs(60)).unwrap();
    theirs.adverts[0] = altered(&Arc::new(advert), |advert| advert.size_bytes += 1);
    let mut data = vec![0xee; size];
    // A frame carries what a waiting call writes here; what is posted is cut into many.
    let waited =
        pair.other.move_now(&pair.to_owner, Direction::Write, &[part(&theirs.adverts[0], 0, &mut data)], soon());
    assert_eq!(waited.unwrap_err().code, "out_of_range");
    let posted = pair.other.post(&pair.to_owner, Direction::Write, &[part(&theirs.adverts[0], 0, &mut data)], soon());
    assert_eq!(failed(&posted.unwrap()), "out_of_range");
    theirs.judge_untouched(&pair);
}

fn a_vector_that_was_refused_says_where_and_the_next_is_written(pair: Pair) {
    let mut theirs = owned(&pair, 3, 1_000);
    let bad = forged(&theirs.adverts[1]);
    let mut data = vec![vec![7; 100]; 3];
    let mut parts: Vec<Part> =
        theirs.adverts.iter().zip(&mut data).map(|(advert, bytes)| part(advert, 300, bytes)).collect();
    parts[1].advert = bad;
    let region = Advert::region_id(theirs.adverts[1].buffer);
    let waited = pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).unwrap_err();
    assert_eq!((waited.code, waited.peer.as_str(), waited.offset), ("grant_forged", "owner", 300));
    assert_eq!(waited.region, region);
    let posted = pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
    let Status::Failed(failure) = ended(&posted) else { panic!("it was written") };
    assert_eq!((failure.code, failure.region, failure.offset), ("grant_forged", region, 300));
    parts[1].advert = Arc::clone(&theirs.adverts[1]);
    assert_eq!(pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()), Ok(300));
    for registration in std::mem::take(&mut theirs.registrations) {
        pair.owner.release(registration).unwrap();
    }
    assert!(theirs.buffers.iter().all(|buffer| buffer[300..400] == [7; 100] && buffer[..300] == [0; 300]));
}

fn two_adverts_that_claim_one_buffer_are_refused_before_anything_is_asked(pair: Pair) {
    let theirs = owned(&pair, 2, 1_000);
    for adverts in [[0, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]] {
        let claims = [Arc::clone(&theirs.adverts[0]), forged(&theirs.adverts[0])];
        let adverts = adverts.map(|index: usize| Arc::clone(&claims[index]));
        assert_eq!(refused(&pair, &adverts, 100), "bad_argument");
    }
    theirs.judge_untouched(&pair);
}

fn adverts_that_differ_only_in_what_their_holder_is_told_are_one(pair: Pair) {
    let mut theirs = owned(&pair, 2, 1_000);
    let told = altered(&theirs.adverts[0], |advert| advert.size_bytes = 500);
    let adverts = [&theirs.adverts[0], &theirs.adverts[1], &told, &theirs.adverts[1]].map(Arc::clone);
    let mut data = [vec![1; 100], vec![2; 100], vec![3; 100], vec![4; 100]];
    let parts: Vec<Part> = adverts
        .iter()
        .zip(&mut data)
        .zip([0, 0, 100, 100])
        .map(|((advert, bytes), offset)| part(advert, offset, bytes))
        .collect();
    assert_eq!(pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()), Ok(400));
    assert_eq!(ended(&pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap()), Status::Done(400));
    for registration in std::mem::take(&mut theirs.registrations) {
        pair.owner.release(registration).unwrap();
    }
    assert!(theirs.buffers[0][..100] == [1; 100] && theirs.buffers[0][100..200] == [3; 100]);
    assert!(theirs.buffers[1][..100] == [2; 100] && theirs.buffers[1][100..200] == [4; 100]);
}

fn a_vector_that_is_taken_back_lands_nothing_over_the_next(pair: Pair) {
    let mut theirs = owned(&pair, 40, 10_000);
    let mut data = vec![vec![0xee; 10_000]; 40];
    let mut cancelled = 0;
    for round in 0..40u64 {
        let parts: Vec<Part> =
            theirs.adverts.iter().zip(&mut data).map(|(advert, bytes)| part(advert, 0, bytes)).collect();
        let posted = pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
        std::thread::sleep(Duration::from_micros(round * 5));
        pair.other.cancel(&posted);
        cancelled += u32::from(ended(&posted) == Status::Cancelled);
    }
    // Whatever came of each: the transfer that comes after is whole, and nothing of those before it lands over it.
    let mut last: Vec<Vec<u8>> = (0..40).map(|index| pattern(10_000, index)).collect();
    let parts: Vec<Part> = theirs.adverts.iter().zip(&mut last).map(|(advert, bytes)| part(advert, 0, bytes)).collect();
    let posted = pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
    assert_eq!(ended(&posted), Status::Done(400_000), "{cancelled} were taken back before");
    for registration in std::mem::take(&mut theirs.registrations) {
        pair.owner.release(registration).unwrap();
    }
    assert!(theirs.buffers.iter().zip(&last).all(|(buffer, bytes)| buffer == bytes));
}

#[test]
fn a_waiting_write_of_more_than_a_frame_asks_first_and_reads_do_not() {
    let pair = pair_with(false);
    let theirs = owned(&pair, 2, 1_000);
    let reads = || pair.owner.server().counters().reads.load(Ordering::Relaxed);
    let mut bytes = vec![vec![0; 1_000]; 2];
    let parts: Vec<Part> =
        theirs.adverts.iter().zip(&mut bytes).map(|(advert, bytes)| part(advert, 0, bytes)).collect();
    let before = reads();
    pair.other.move_now(&pair.to_owner, Direction::Write, &parts[..1], soon()).unwrap();
    assert_eq!(reads() - before, 0, "one frame is judged whole");
    pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
    assert_eq!(reads() - before, 2);
    pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
    assert_eq!(reads() - before, 4, "a read that fails leaves nobody's memory half written but its caller's own");
}

/// Memory that neighbours map is read and written without the kernel; what they were refused they reach no more.
#[test]
fn an_advert_of_mapped_memory_that_was_withdrawn_leaves_nothing_written() {
    let pair = pair_with(true);
    let lent: Vec<_> = (0..4).map(|_| pair.owner.allocate(64 << 10).unwrap()).collect();
    let (registrations, adverts): (Vec<u64>, Vec<Arc<Advert>>) = lent
        .iter()
        .map(|mapping| {
            let registration = pair.owner.memory().register(mapping.span()).unwrap();
            let lasts = Duration::from_secs(60);
            (registration, Arc::new(pair.owner.advertise(registration, 0, 64 << 10, true, lasts).unwrap()))
        })
        .unzip();
    let mut zeros = vec![vec![0; 64 << 10]; 4];
    let parts: Vec<Part> = adverts.iter().zip(&mut zeros).map(|(advert, bytes)| part(advert, 0, bytes)).collect();
    for _ in 0..4 {
        pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
        pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
        ended(&pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap());
    }
    pair.owner.release(registrations[2]).unwrap();
    assert_eq!(refused(&pair, &adverts, 64 << 10), "extent_lost");
    for mapping in &lent {
        let mut content = vec![1; 64 << 10];
        mapping.span().copy_to(&mut content);
        assert!(content.iter().all(|byte| *byte == 0), "it was written to");
    }
}
