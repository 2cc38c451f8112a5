"""What Vulkan finds here: adapters by name and kind, since engines do not tell software from hardware.

Vulkan 1.0, through the system's loader alone: vkCreateInstance, vkEnumeratePhysicalDevices and
vkGetPhysicalDeviceProperties.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from dataclasses import dataclass

from edgekit.session import Kind

LOADERS = {"linux": "libvulkan.so.1", "win32": "vulkan-1.dll"}
CREATE_INSTANCE = struct.pack("I60x", 1)  # a VkInstanceCreateInfo that asks for nothing
PROCESSOR = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
PROPERTIES = struct.Struct("5I256s")  # the head of VkPhysicalDeviceProperties
ROOM = 4096  # bytes; the whole of it has fewer than 1024
MOST = 16  # adapters


@dataclass(frozen=True)
class Adapter:
    """One physical device of Vulkan."""

    name: str
    kind: Kind


def adapters() -> list[Adapter]:
    """The adapters in Vulkan's order; none where there is no loader or no driver."""
    try:
        vulkan = ctypes.CDLL(LOADERS[sys.platform])
    except (KeyError, OSError):
        return []
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(CREATE_INSTANCE, None, ctypes.byref(instance)):
        return []
    try:
        count, handles = ctypes.c_uint32(MOST), (ctypes.c_void_p * MOST)()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        return [_adapter(vulkan, handle) for handle in handles[: count.value]]
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _adapter(vulkan: ctypes.CDLL, handle: int | None) -> Adapter:
    properties = ctypes.create_string_buffer(ROOM)
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), properties)
    *_, kind, name = PROPERTIES.unpack_from(properties)
    return Adapter(name.partition(b"\0")[0].decode(), "software" if kind == PROCESSOR else "hardware")
