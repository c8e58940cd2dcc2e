"""userfaultfd, the part of the kernel remote memory stands on: what of it is there, and what is lost without."""

from collections.abc import Mapping

from weft.cli.doctor.finding import Finding, limited, missing, ok

_NEWER_KERNEL = "use Linux 6.8 or newer"

# Feature, whether attaching needs it, the first kernel that has it, and what is lost without it.
_FEATURES = (
    ("event_remap", True, "4.11", "moving a mapping with mremap would silently read zeros, so regions do not attach"),
    ("event_remove", True, "4.11", "discarding a mapping's pages would go unnoticed, so regions do not attach"),
    ("event_unmap", True, "4.11", "unmapping a mapping would go unnoticed, so regions do not attach"),
    ("poison", True, "6.6", "a lost page could not be told from zeros, so regions do not attach"),
    ("write_protect", True, "5.7", "written pages could not be told from clean ones, so nobody attaches to write"),
    (
        "write_protect_async",
        True,
        "6.7",
        "every first write to a page would stop a thread, so nobody attaches to write",
    ),
    ("move", False, "6.8", "pages are copied into place instead of moved, at less than half the rate"),
)


def check_userfaultfd(report: Mapping[str, str | int | bool]) -> list[Finding]:
    """What the kernel's userfaultfd offers this process."""
    if not report.get("userfaultfd"):
        return [
            missing(
                "userfaultfd",
                str(report.get("userfaultfd_error") or "this build does not say"),
                meaning="no region can be attached and no pager started from here; lending still works",
                remedy=(
                    "as root: sysctl -w vm.unprivileged_userfaultfd=1, or make /dev/userfaultfd readable and writable "
                    "to this user, or run with CAP_SYS_PTRACE; in a container also allow the system call userfaultfd"
                ),
                needed=True,
            )
        ]
    return [_check_privilege(report), *(_check_feature(report, *feature) for feature in _FEATURES), _check_scan(report)]


def _check_privilege(report: Mapping[str, str | int | bool]) -> Finding:
    if report.get("kernel_faults"):
        return ok("userfaultfd", "available, for this program's code and for system calls it makes", needed=True)
    return limited(
        "userfaultfd",
        "available for this program's own code only",
        meaning="a system call such as read(2) straight into an absent page fails with EFAULT; touching pages works",
        remedy=(
            "prefetch such ranges first; or as root: sysctl -w vm.unprivileged_userfaultfd=1, or make "
            "/dev/userfaultfd readable and writable to this user"
        ),
    )


def _check_feature(
    report: Mapping[str, str | int | bool], feature: str, needed: bool, since: str, without: str
) -> Finding:
    name = f"userfaultfd {feature}"
    if report.get(feature):
        return ok(name, "available", needed=needed)
    return missing(
        name, f"not in this kernel (Linux {since} has it)", meaning=without, remedy=_NEWER_KERNEL, needed=needed
    )


def _check_scan(report: Mapping[str, str | int | bool]) -> Finding:
    if report.get("pagemap_scan"):
        return ok("pagemap scan", "available", needed=True)
    return missing(
        "pagemap scan",
        "not in this kernel (Linux 6.7 has it)",
        meaning="written pages cannot be listed, so nobody attaches to write",
        remedy=_NEWER_KERNEL,
        needed=True,
    )
