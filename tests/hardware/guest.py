"""Boots a small Linux whose kernel speaks RDMA over Ethernet in software, and runs programs in it, one after the other.

    python3 -m tests.hardware.guest PROGRAM ...

`make test-rdma` hands it the tests over real verbs. The guest is a kernel of the distribution, a root file system in
memory with those programs, the verbs library and what they need, and a network device of its own; it reaches nothing
outside, and nothing outside reaches it. It runs without hardware help, so it runs anywhere, and its times say nothing.
What is unpacked is kept in `.build/rdma` and made anew when the kernel's version moves on.
"""

import gzip
import io
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

BUILD = Path(".build/rdma")
# The whole guest: it boots in three seconds and the program takes twenty; a machine under load takes three times that.
GUEST_DEADLINE_S = 100
APT_DEADLINE_S = 300
MEMORY_MIB = 768
# An emulated machine's kernel now and then falls over in its first moments (once in a dozen boots, at 0.06 s).
# That says nothing of the program, which had not begun; it is booted again. What happens after that counts.
BOOTS_MAX = 3
UP = "guest: up"

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "ip": "iproute2",
    "/usr/lib/x86_64-linux-gnu/libibverbs.so.1": "libibverbs1",
    "/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so": "ibverbs-providers",
}
MODULES = ("rdma_rxe", "ib_uverbs", "dummy", "crc32_generic")
COMMANDS = ("/sbin/ip", "/usr/bin/rdma")
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
while read name; do /bin/busybox insmod "/modules/$name" || echo "guest: $name does not load"; done </modules/order
ip link set lo up
ip link add wire0 type dummy
ip link set wire0 up
ip addr add 10.77.0.1/24 dev wire0
rdma link add rxe0 type rxe netdev wire0
echo "guest: up after $(/bin/busybox cut -d' ' -f1 /proc/uptime) s"
for program in /programs/*; do
    WEFT_RDMA_REQUIRED=1 RUST_BACKTRACE=1 "$program"
    echo "guest: the program ended with $?"
done
/bin/busybox sync
/bin/busybox poweroff -f
"""


class UnmetError(Exception):
    """Something the guest is made from cannot be had."""


def main(arguments: list[str]) -> int:
    """Makes what is missing, boots, and judges by what the program said."""
    if not arguments:
        print("usage: python3 -m tests.hardware.guest PROGRAM ...")
        return 2
    try:
        install()
        release = kernel_release()
        kernel, modules = unpack(release)
        root = BUILD / "initramfs.gz"
        root.write_bytes(gzip.compress(initramfs([Path(name) for name in arguments], modules), compresslevel=1))
    except (UnmetError, subprocess.SubprocessError, OSError) as error:
        print(f"weft: the guest cannot be made: {error}")
        return 1
    started = time.monotonic()
    said: list[str] = []
    for _ in range(BOOTS_MAX):
        said = boot(kernel, root, max(1, GUEST_DEADLINE_S - int(time.monotonic() - started)))
        if any(UP in line for line in said):
            break
        print("weft: the guest's kernel did not come up")
    return judge(said, len(arguments))


def install() -> None:
    """Installs what is missing, where that is allowed."""
    missing = sorted({package for need, package in PACKAGES.items() if not (shutil.which(need) or Path(need).exists())})
    if not missing:
        return
    print(f"weft: installing {' '.join(missing)}", flush=True)
    apt("update")
    apt("install", "--yes", "--no-install-recommends", *missing)


def apt(*arguments: str) -> None:
    """Runs apt-get, as root or through sudo."""
    if shutil.which("apt-get") is None:
        raise UnmetError(f"this is no Debian; install by hand what gives {', '.join(PACKAGES)}")
    command = ["apt-get", "-qq", *arguments]
    if os.geteuid() != 0 and arguments[0] != "download":
        command = ["sudo", "--non-interactive", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=APT_DEADLINE_S, check=False)
    if done.returncode != 0:
        raise UnmetError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-400:]}")


def kernel_release() -> str:
    """The release of the distribution's present kernel; not the one of its clouds, which has no software RDMA."""
    for attempt in range(2):
        listed = subprocess.run(
            ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        if found := re.search(r"Depends: linux-image-(\S+)", listed):
            return found[1]
        if attempt == 0:
            apt("update")
    raise UnmetError("apt knows no linux-image-amd64")


def unpack(release: str) -> tuple[Path, list[Path]]:
    """The kernel ready to boot, and the modules it needs in the order they load."""
    home = BUILD / release
    kernel, order = home / "vmlinux", home / "order"
    if not order.exists():
        print(f"weft: unpacking the kernel {release} for the guest", flush=True)
        shutil.rmtree(BUILD, ignore_errors=True)
        home.mkdir(parents=True)
        fetch(release, home)
        tree = home / "tree"
        subprocess.run(["dpkg-deb", "-x", next(home.glob("*.deb")), tree], check=True, timeout=120)
        kernel.write_bytes(plain_kernel((tree / "boot" / f"vmlinuz-{release}").read_bytes()))
        # Where /lib is a link to /usr/lib, both tools look below the one they were built for.
        base = tree / "usr" if not (tree / "lib" / "modules").exists() else tree
        subprocess.run(["depmod", "-b", base, release], check=True, timeout=120)
        names = load_order(base, release)
        kept = home / "modules"
        kept.mkdir()
        for name in names:
            shutil.copy(name, kept / name.name)
        shutil.rmtree(tree)
        for package in home.glob("*.deb"):
            package.unlink()
        order.write_text("".join(f"{name.name}\n" for name in names))
    return kernel, [home / "modules" / name for name in order.read_text().split()]


def fetch(release: str, into: Path) -> None:
    """Downloads the kernel's package, which is not installed."""
    for attempt in range(2):
        done = subprocess.run(
            ["apt-get", "-qq", "download", f"linux-image-{release}"],
            cwd=into, capture_output=True, text=True, timeout=APT_DEADLINE_S, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return
        if attempt == 0:
            apt("update")
    raise UnmetError(f"the kernel cannot be downloaded: {done.stderr.strip()[-400:]}")


def plain_kernel(image: bytes) -> bytes:
    """The kernel inside a boot image: unpacking it here takes a second, in the guest five."""
    # Offsets from the boot protocol (Documentation/arch/x86/boot.rst in the kernel's tree).
    setup_sectors = image[0x1F1] or 4
    start = (setup_sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    payload = image[start : start + int.from_bytes(image[0x24C:0x250], "little")]
    if payload.startswith(b"\xfd7zXZ\x00"):
        # Behind it stands the length of what comes out.
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    for magic, command in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):
        if payload.startswith(magic) and shutil.which(command):
            return subprocess.run(
                [command, "-d", "-c"], input=payload, capture_output=True, timeout=60, check=False
            ).stdout
    # Unpacked by the guest itself, then.
    return image


def load_order(base: Path, release: str) -> list[Path]:
    """Modules with everything they depend on before them."""
    names: list[Path] = []
    for module in MODULES:
        shown = subprocess.run(
            ["modprobe", "-d", base, "-S", release, "--show-depends", module],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        for line in shown.splitlines():
            if line.startswith("insmod ") and (path := Path(line.split()[1])) not in names:
                names.append(path)
    return names


def initramfs(programs: list[Path], modules: list[Path]) -> bytes:
    """The root file system, as the archive the kernel unpacks."""
    archive = Archive()
    for folder in ("bin", "sbin", "lib", "lib64", "usr", "usr/bin", "usr/lib", "etc", "dev", "modules", "programs"):
        archive.folder(folder)
    archive.folder("usr/lib/x86_64-linux-gnu/libibverbs")
    archive.folder("etc/libibverbs.d")
    # The kernel gives the first process no terminal unless this is there before anything is mounted.
    archive.device("dev/console", 5, 1)
    archive.file("init", INIT.encode(), 0o755)
    for number, program in enumerate(programs):
        archive.file(f"programs/{number}", program.read_bytes(), 0o755)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise UnmetError("busybox was installed and is not found")
    archive.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
    provider = LIBRARIES / "libibverbs" / "librxe-rdmav34.so"
    verbs = LIBRARIES / "libibverbs.so.1"
    needed: set[Path] = set()
    for binary in (*programs, Path(COMMANDS[0]), Path(COMMANDS[1]), provider, verbs):
        needed |= libraries(binary)
    for command in COMMANDS:
        archive.file(f"bin/{Path(command).name}", Path(command).read_bytes(), 0o755)
    for path in sorted(needed | {verbs}):
        archive.file(str(path).removeprefix("/"), path.read_bytes(), 0o755)
    archive.file(str(provider).removeprefix("/"), provider.read_bytes(), 0o755)
    archive.file("etc/libibverbs.d/rxe.driver", b"driver rxe\n", 0o644)
    archive.file("modules/order", "".join(f"{module.name}\n" for module in modules).encode(), 0o644)
    for module in modules:
        archive.file(f"modules/{module.name}", module.read_bytes(), 0o644)
    return archive.close()


def libraries(binary: Path) -> set[Path]:
    """What the dynamic linker loads for it."""
    shown = subprocess.run(["ldd", binary], capture_output=True, text=True, timeout=30, check=True).stdout
    return {Path(found) for found in re.findall(r"(/\S+)(?= \(0x)", shown)}


class Archive:
    """A cpio archive of the `newc` kind (`cpio(5)`): a header of hexadecimal fields, a name, the content, padded."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._count = 0
        self._made: set[str] = set()

    def folder(self, name: str) -> None:
        """A folder, and those above it."""
        if name in self._made or name in ("", "."):
            return
        self.folder(str(Path(name).parent))
        self._made.add(name)
        self._entry(name, b"", 0o040755, (0, 0))

    def file(self, name: str, content: bytes, mode: int) -> None:
        """A file."""
        self.folder(str(Path(name).parent))
        self._entry(name, content, 0o100000 | mode, (0, 0))

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self._entry(name, b"", 0o020600, (major, minor))

    def close(self) -> bytes:
        """The whole."""
        self._entry("TRAILER!!!", b"", 0, (0, 0))
        return self._out.getvalue()

    def _entry(self, name: str, content: bytes, mode: int, device: tuple[int, int]) -> None:
        self._count += 1
        encoded = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        self._out.write(b"070701" + b"".join(f"{field:08X}".encode() for field in fields))
        self._out.write(encoded)
        self._pad()
        self._out.write(content)
        self._pad()

    def _pad(self) -> None:
        self._out.write(b"\0" * (-self._out.tell() % 4))


def boot(kernel: Path, root: Path, deadline_s: int) -> list[str]:
    """Runs the guest, prints what it says, and ends it at the deadline."""
    command = [
        "qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max",
        "-m", str(MEMORY_MIB), "-nographic", "-no-reboot", "-nodefaults", "-nic", "none", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(root), "-append", "console=ttyS0 quiet panic=-1",
    ]  # fmt: skip
    started = time.monotonic()
    guest = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    # The read below ends with the guest; the alarm ends the guest.
    signal.signal(signal.SIGALRM, lambda *_: guest.kill())
    signal.alarm(deadline_s)
    said: list[str] = []
    try:
        assert guest.stdout is not None
        for line in guest.stdout:
            said.append(line.rstrip())
            print(f"  {said[-1]}", flush=True)
        guest.wait(timeout=10)
    finally:
        signal.alarm(0)
        guest.kill()
        guest.wait()
    print(f"weft: the guest ran for {time.monotonic() - started:.0f} s of at most {deadline_s}")
    return said


def judge(said: list[str], programs_count: int) -> int:
    """Green only when every program counted, and nothing failed."""
    counted = [found for line in said if (found := re.search(r"soft_roce: (\d+) passed, (\d+) failed", line))]
    ended = [line for line in said if "guest: the program ended with" in line]
    passed, failed = (sum(int(found[part]) for found in counted) for part in (1, 2))
    print(f"{passed} passed, {failed} failed")
    if len(counted) < programs_count or len(ended) < programs_count:
        print("weft: the guest ended before the programs did")
        return 1
    return 0 if failed == 0 and all(line.endswith("with 0") for line in ended) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
