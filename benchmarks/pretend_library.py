"""A guard and hooks of CUDA that do nothing, with which torch's autograd serves tensors that say they are on cuda:0.

To import this module compiles them, once for each torch, and loads them. They must be there when torch is imported. It
needs a C++ compiler (`c++`), and no CUDA.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import assent  # noqa: F401  # first: it says how OpenMP's threads wait
from assent.runs.files import user_cache

LIBRARY = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct Guard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return Device(DeviceType::CUDA, 0); }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, Device(DeviceType::CUDA, 0)); }
  Stream exchangeStream(Stream) const noexcept override { return getStream(Device(DeviceType::CUDA, 0)); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, CUDAHooks)
}
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
extern "C" int has_cuda() { return at::detail::getCUDAHooks().hasCUDA(); }
"""


def _load() -> Any:
    """Compiles the library and loads it, before torch: torch asks for CUDA once, when it is imported."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.submodule_search_locations
    torch_at = Path(spec.submodule_search_locations[0])
    key = hashlib.sha256((LIBRARY + str(torch_at) + version("torch")).encode()).hexdigest()[:16]
    made = user_cache() / "pretended" / f"{key}.so"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        source, fresh = made.with_name(f"{key}-{os.getpid()}.cpp"), made.with_name(f"{key}-{os.getpid()}.so")
        source.write_text(LIBRARY, encoding="utf-8")
        command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", str(source), "-o", str(fresh)]
        command += [f"-I{torch_at / 'include'}", f"-L{torch_at / 'lib'}", f"-Wl,-rpath,{torch_at / 'lib'}"]
        subprocess.run([*command, "-Wl,--no-as-needed", "-lc10", "-ltorch_cpu"], check=True)
        fresh.rename(made)
        source.unlink()
    library = ctypes.CDLL(str(made))
    if not library.has_cuda():
        sys.exit("torch was imported before pretend_cuda: import this module first")
    return library


LOADED = _load()
