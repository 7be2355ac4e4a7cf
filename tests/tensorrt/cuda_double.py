"""A double of ``pycuda.driver`` that is stricter than a GPU.

Device memory is host memory under made-up addresses. Work queued on a stream happens when somebody waits for it, not before, so
a missing wait gives wrong results; or, with `Machine.eager`, at once, as on a GPU that is faster than its host. What a GPU would
punish by a crash or by garbage (a call without a current context, an object used or freed by a thread that did not make it, use
after free, a copy beyond an allocation or from pageable memory, host memory changed under a copy, scratch memory shared by
executions under way, changing what a CUDA graph was captured from, freeing in the wrong order) is noted in `Machine.violations`.
With `Machine.together`, whoever waits for the GPU first waits for as many others to do so.
"""

import enum
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Work = Callable[[], None]
_IN_CAPTURE = {"memcpy_htod_async", "memcpy_dtoh_async"}


class Machine:
    """The GPU with its driver; the attributes in the first block say what it is and make things fail."""

    def __init__(self) -> None:
        self.gpus = 1
        self.memory = 1 << 30
        self.fail_next: str | None = None
        self.profiles = [(1, 1, 8)]
        self.integrated = False
        self.eager = False
        self.together: threading.Barrier | None = None

        self.violations: list[str] = []
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.live: dict[int, Memory] = {}
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.pinned: list[tuple[int, int, weakref.ref[HostMemory]]] = []
        self.contexts = 0
        self.owned = 0
        self.graphs = 0
        self.most_pending = 0
        self._stack = threading.local()
        self._next = 0x7F0000000000
        self._lock = threading.RLock()  # which a finaliser may take again
        self.Error = type("Error", (Exception,), {})

    @property
    def stack(self) -> list["Context"]:
        """Contexts pushed on this thread."""
        if not hasattr(self._stack, "contexts"):
            self._stack.contexts = []
        contexts: list[Context] = self._stack.contexts
        return contexts

    def count(self, what: str, change: int) -> None:
        with self._lock:
            setattr(self, what, getattr(self, what) + change)

    def blame(self, violation: str) -> None:
        self.violations.append(violation)

    def call(self, name: str) -> None:
        """Every call that needs a current context comes through here."""
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        if not self.stack:
            self.blame(f"{name} with no currently active context")
        if name not in _IN_CAPTURE and any(
            stream.captured is not None and stream.thread == threading.get_ident() for stream in list(self.streams.values())
        ):
            self.blame(f"{name} while this thread captures a stream")
        if self.fail_next == name:
            self.fail_next = None
            raise self.Error(f"{name} failed: an illegal memory access was encountered")

    def address(self) -> int:
        with self._lock:
            self._next += 1 << 24
            return self._next

    def bytes_at(self, address: int, size: int, what: str) -> Any:
        """Device memory, or host memory that is mapped there."""
        memory = self.live.get(address)
        if memory is None:
            mapped = [host for _, _, owner in self.pinned if (host := owner()) is not None and host.device == address]
            if mapped and len(mapped[0].data) >= size:
                return mapped[0].data[:size]
            self.blame(f"{what}: {address:#x} is not allocated")
        elif len(memory.data) < size:
            self.blame(f"{what}: {size} bytes in an allocation of {len(memory.data)}")
        else:
            return memory.data[:size]
        return np.zeros(size, np.uint8)

    def pinned_view(self, array: Any, what: str) -> Callable[[], Any]:
        """Finds the array's bytes again without keeping its memory alive."""
        start, size = array.__array_interface__["data"][0], array.nbytes
        nothing = np.zeros(size, np.uint8)
        found = [
            (start - low, owner)
            for low, high, owner in self.pinned
            if low <= start and start + size <= high and owner() is not None
        ]
        if not found:
            self.blame(f"{what}: the host memory is not page-locked, or was freed")
            return lambda: nothing
        offset, owner = found[-1]

        def view() -> Any:
            host = owner()
            if host is None:
                self.blame(f"{what}: its host memory was freed before it was done")
                return nothing
            return host.data[offset : offset + size]

        return view

    def idle(self) -> bool:
        """Whether everything was given back."""
        pinned = [owner for _, _, owner in self.pinned if owner() is not None]
        return not (self.live or self.contexts or self.owned or self.graphs or pinned or self.streams)


class Owned:
    """Belongs to the thread that made it; noted when another uses or frees it, or frees it without a context."""

    def __init__(self, machine: Machine, what: str) -> None:
        machine.call(what)
        self.machine, self.what, self.thread = machine, what, threading.get_ident()
        machine.count("owned", 1)

    def used(self, how: str) -> None:
        if threading.get_ident() != self.thread:
            self.machine.blame(f"{how} on a thread that did not make its {self.what}")

    def __del__(self) -> None:
        if not hasattr(self, "thread"):  # the call failed: it was never made
            return
        self.machine.count("owned", -1)
        self.used("freed")
        if not self.machine.stack:
            self.machine.blame(f"{self.what} freed with no currently active context")


class Memory:
    """Device memory."""

    def __init__(self, machine: Machine, size: int) -> None:
        self._machine, self._address, self._thread = machine, machine.address(), threading.get_ident()
        self.data = np.full(size, 0xAA, np.uint8)
        self.users: set[int] = set()
        machine.live[self._address] = self

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._machine.call("free")
        if self._thread != threading.get_ident():
            self._machine.blame("memory freed on another thread")
        if any(stream.pending and stream.thread == self._thread for stream in list(self._machine.streams.values())):
            self._machine.blame("memory freed while its thread's stream still works")
        if self._machine.live.pop(self._address, None) is None:
            self._machine.blame("memory freed twice")


class HostMemory:
    """Page-locked memory; the base of the array that PyCUDA gives."""

    def __init__(self, machine: Machine, shape: tuple[int, ...], dtype: Any, flags: int) -> None:
        self._machine, self.shape, self.dtype = machine, shape, np.dtype(dtype)
        self.data = np.full(int(np.prod(shape)) * self.dtype.itemsize, 0x7F, np.uint8)
        self.device = machine.address() if flags & HostAllocFlags.DEVICEMAP else None
        start = self.data.__array_interface__["data"][0]
        machine.pinned.append((start, start + self.data.nbytes, weakref.ref(self)))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {**self.data.__array_interface__, "shape": self.shape, "typestr": self.dtype.str}

    def get_device_pointer(self) -> int:
        self._machine.call("get_device_pointer")
        assert self.device, "memory that was not mapped has no address on the GPU"
        return self.device


class Context:
    def __init__(self, machine: Machine) -> None:
        self._machine, self._thread = machine, threading.get_ident()
        machine.count("contexts", 1)

    def push(self) -> None:
        self._machine.stack.append(self)

    def pop(self) -> None:
        self._machine.call("pop")
        self._machine.stack.pop()

    def detach(self) -> None:
        if self._thread != threading.get_ident():
            self._machine.blame("context detached on another thread")
        self._machine.count("contexts", -1)
        if not self._machine.contexts and (self._machine.live or self._machine.owned):
            self._machine.blame("context detached before what was made in it was freed")


class Stream(Owned):
    def __init__(self, machine: Machine, flags: int) -> None:
        super().__init__(machine, "Stream")
        assert flags in (0, 1)
        self.handle = machine.address()
        self.pending: list[Work] = []
        self.captured: list[Work] | None = None
        machine.streams[self.handle] = self

    def queue(self, work: Work) -> None:
        """What every asynchronous call does."""
        self.used("queued")
        if self.captured is not None:
            self.captured.append(work)
            return
        self.pending.append(work)
        busy = sum(bool(stream.pending) for stream in list(self.machine.streams.values()))
        self.machine.most_pending = max(self.machine.most_pending, busy)
        if self.machine.eager:
            self.run()

    def run(self) -> None:
        while self.pending:
            self.pending.pop(0)()

    def synchronize(self) -> None:
        self.machine.call("synchronize")
        self.used("synchronize")
        self.run()


class Event(Owned):
    def __init__(self, machine: Machine, flags: int) -> None:
        super().__init__(machine, "Event")
        self._stream: Stream | None = None
        self._done = False
        self.flags = flags

    def record(self, stream: Stream) -> "Event":
        self.machine.call("record")
        self.used("record")
        self._stream, self._done = stream, False
        stream.queue(lambda: setattr(self, "_done", True))
        return self

    def synchronize(self) -> "Event":
        self.machine.call("event_synchronize")
        self.used("synchronize")
        if self._stream is None:
            self.machine.blame("waiting for an event that was never recorded")
        self.machine.calls.append("spins" if self.flags == EventFlags.DEFAULT else "sleeps")
        if self.machine.together is not None:
            self.machine.together.wait(timeout=20)
        while self._stream and self._stream.pending and not self._done:
            self._stream.pending.pop(0)()
        return self

    def time_till(self, other: "Event") -> float:
        if not (self._done and other._done):
            self.machine.blame("time between events that have not happened")
        return 0.25


class HostAllocFlags:
    DEVICEMAP = 2


class DeviceAttribute(enum.Enum):
    INTEGRATED = 18


class EventFlags:
    DEFAULT = 0
    BLOCKING_SYNC = 1


def _copies(machine: Machine) -> dict[str, Callable[..., None]]:
    """The driver's functions that copy between host and device, by name."""

    def memcpy_htod(destination: Any, source: Any) -> None:
        machine.call("memcpy_htod")
        machine.bytes_at(int(destination), source.nbytes, "memcpy_htod")[:] = source.reshape(-1).view(np.uint8)

    def memcpy_htod_async(destination: Any, source: Any, stream: Stream) -> None:
        machine.call("memcpy_htod_async")
        view, size, address = machine.pinned_view(source, "memcpy_htod_async"), source.nbytes, int(destination)
        seen = None if stream.captured is not None else view().copy()

        def copy() -> None:
            now = view()
            if seen is not None and not np.array_equal(seen, now):
                machine.blame("host memory changed while a copy of it was under way")
            machine.bytes_at(address, size, "memcpy_htod_async")[:] = now

        stream.queue(copy)

    def memcpy_dtoh_async(destination: Any, source: Any, stream: Stream) -> None:
        machine.call("memcpy_dtoh_async")
        view, size, address = machine.pinned_view(destination, "memcpy_dtoh_async"), destination.nbytes, int(source)

        def copy() -> None:
            view()[:] = machine.bytes_at(address, size, "memcpy_dtoh_async")

        stream.queue(copy)

    functions = (memcpy_htod, memcpy_htod_async, memcpy_dtoh_async)
    return {function.__name__: function for function in functions}


def cuda_driver(machine: Machine) -> ModuleType:
    """The double of ``pycuda.driver``."""

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal < machine.gpus

        def name(self) -> str:
            return "Double GPU"

        def get_attribute(self, attribute: DeviceAttribute) -> int:
            assert attribute is DeviceAttribute.INTEGRATED
            return int(machine.integrated)

        def retain_primary_context(self) -> Context:
            return Context(machine)

    def init() -> None:
        if not machine.gpus:
            raise machine.Error("cuInit failed: no CUDA-capable device is detected")

    def mem_alloc(size: int) -> Memory:
        machine.call("mem_alloc")
        if size + sum(len(memory.data) for memory in list(machine.live.values())) > machine.memory:
            raise machine.Error("cuMemAlloc failed: out of memory")
        return Memory(machine, size)

    def pagelocked_empty(shape: tuple[int, ...], dtype: Any, *, mem_flags: int = 0) -> Any:
        machine.call("pagelocked_empty")
        return np.asarray(HostMemory(machine, shape, dtype, mem_flags))

    module = ModuleType("pycuda.driver")
    functions = (init, Device, mem_alloc, pagelocked_empty)
    module.__dict__.update({function.__name__: function for function in functions} | _copies(machine))
    module.__dict__.update(Error=machine.Error, Stream=lambda flags=0: Stream(machine, flags))
    module.__dict__.update(Event=lambda flags=0: Event(machine, flags), event_flags=EventFlags)
    module.__dict__.update(host_alloc_flags=HostAllocFlags, device_attribute=DeviceAttribute)
    return module


def cuda_surface() -> set[str]:
    """Every public name of the double of ``pycuda.driver`` and of its classes."""
    module = cuda_driver(Machine())
    names = {name for name in vars(module) if not name.startswith("_")}
    own = {"queue", "run", "used", "data", "users", "shape", "dtype", "device", "flags"}
    for kind in (Memory, HostMemory, Context, Stream, Event, DeviceAttribute, EventFlags, HostAllocFlags, module.Device):
        names |= {member for member in vars(kind) if not member.startswith("_")} - own
    return names | {"handle"}
