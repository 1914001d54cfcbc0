"""Run several worker processes on one socket."""

import signal
from collections.abc import Callable
from multiprocessing import connection, get_context

import uvicorn


def run_workers(count: int, config: uvicorn.Config, work: Callable[..., int]) -> int:
    """Run workers until they have drained. Returns the exit code: 1 if a worker exited before a signal."""
    listening = config.bind_socket()
    spawn = get_context("spawn")
    worker_end, our_end = spawn.Pipe(duplex=False)
    workers = [spawn.Process(target=work, args=(worker_end, [listening])) for _ in range(count)]
    signals: list[int] = []

    def forward_signal(sig: int, frame: object) -> None:
        signals.append(sig)
        our_end.close()  # every worker stops when its pipe is closed
        for worker in workers:
            if len(signals) > 1 and worker.pid:
                worker.kill()

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, forward_signal)
    for worker in workers:
        worker.start()
    worker_end.close()
    listening.close()  # our copy would still accept connections after every worker has closed its own
    connection.wait([worker.sentinel for worker in workers])
    died = not signals
    our_end.close()  # if one has exited before a signal, the others drain
    for worker in workers:
        worker.join()
    return 1 if died else 128 + signals[-1] if len(signals) > 1 else 0
