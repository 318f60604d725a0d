"""Starts what shall not outlive us: in a pid namespace where the host allows one.

When process 1 of a namespace dies, the kernel ends everything in it, however often it
forked. Where no namespace can be had, the parent's death is at least the child's.
"""

from __future__ import annotations

import os
import signal
import time

from sojourn.agent.host.processes import LINUX, die_with_parent, exit_code

POLL_S = 0.03
REST_S = 1.0 if LINUX else POLL_S  # where a child's end wakes us, nothing has to be looked at
PROBE_S = 2.0


def namespace(isolation: str | None) -> list[str]:
    """The command that puts its arguments into a pid namespace of their own; empty where none can be had."""
    if isolation == "subreaper" or not LINUX:
        return []
    pid = ["unshare", "--pid", "--fork", "--kill-child"]
    # As an ordinary user a pid namespace needs a user namespace, which a distribution or a
    # container may forbid. https://man7.org/linux/man-pages/man7/user_namespaces.7.html
    user = ["unshare", "--user", "--map-current-user", *pid[1:], "--mount-proc"]
    for prefix in [[*pid, "--mount-proc"], pid, user] if os.geteuid() == 0 else [user]:
        if succeeds([*prefix, "true"], PROBE_S):
            return prefix
    if isolation == "namespace":
        raise OSError("this host allows no pid namespace")
    return []


def init(command: list[str]) -> int:
    """Be process 1 of the namespace: starts the agent, reaps orphans, exits with the agent's code."""
    catch_signals()
    child = spawn(command)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return exit_code(status)
        if pid == 0 and wait_for_signal(REST_S) == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)


def succeeds(command: list[str], limit_s: float) -> bool:
    pid = spawn(command, log=os.devnull)
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def spawn(command: list[str], directory: str = ".", log: str | None = None, blocked: bool = False) -> int:
    """Start a child that dies with us, in a session of its own; its signals unblocked unless told."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(127)  # the parent died before the line above could matter
        os.setsid()
        reset_signals(blocked)
        os.chdir(directory)
        if log is not None:
            redirect(log)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def redirect(log: str) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)


# --- signals ----------------------------------------------------------------------------

_WAITED = {signal.SIGCHLD, signal.SIGTERM}
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE)


def catch_signals() -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)


def reset_signals(blocked: bool) -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    if not blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED)


def wait_for_signal(limit_s: float) -> int | None:
    """Sleep until SIGCHLD, SIGTERM or `limit_s`; the signal that came."""
    if not LINUX:  # macOS has no sigtimedwait
        time.sleep(limit_s)
        return signal.sigwait(_WAITED) if signal.sigpending() & _WAITED else None
    got = signal.sigtimedwait(_WAITED, limit_s)
    return got.si_signo if got else None
