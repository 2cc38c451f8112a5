"""Display: whether Qt can open a window here, found out before it is asked to, for it aborts the process where it cannot."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

from edgekit.errors import DeviceUnavailable, NotInstalled

WINDOWLESS = ("offscreen", "minimal", "vnc", "linuxfb", "eglfs", "minimalegl", "vkkhrdisplay")
BROKEN = (6, 12, 0)  # drops a reference to True with every signal, of which Python 3.11 dies in the end
NEEDS = (
    "libegl1 libxkbcommon-x11-0 libdbus-1-3 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 libxcb-xinerama0"
)


def require_qt() -> None:
    """Make sure that PySide6 loads.

    Raises:
        NotInstalled: it is not there, or a version that ends the process. DeviceUnavailable: a library of the system is missing; says which.
    """
    try:
        import PySide6.QtWidgets
    except ModuleNotFoundError as error:
        raise NotInstalled.named("the desktop program", "PySide6", "desktop") from error
    except ImportError as error:
        raise DeviceUnavailable(f"Qt cannot load: {error}; on Debian and Ubuntu: apt install {NEEDS}") from error
    if sys.version_info < (3, 12) and PySide6.__version_info__[:3] == BROKEN:
        raise NotInstalled(
            "PySide6 6.12.0 ends Python 3.11 in the middle of work: pip install 'PySide6-Essentials!=6.12.0'"
        )


def require_display() -> None:
    """Make sure that a window can be opened: Qt loads its plugin, and the display answers.

    Raises:
        As `require_qt`. DeviceUnavailable: no display, or one that does not answer.
    """
    require_qt()
    platform = os.environ.get("QT_QPA_PLATFORM", "").partition(":")[0].partition(";")[0]
    if sys.platform != "linux" or platform in WINDOWLESS:
        return
    if platform != "xcb" and _wayland_answers():
        return
    display = os.environ.get("DISPLAY")
    if not display:
        raise DeviceUnavailable(
            "no display: DISPLAY and WAYLAND_DISPLAY are not set, or do not answer. Start the program from a desktop "
            "session (or ssh -X), or do without a window: edgekit run BUNDLE PICTURE -o OUT.png"
        )
    _require_x11(display)


def _require_x11(display: str) -> None:
    from PySide6.QtCore import QLibraryInfo

    plugin = Path(QLibraryInfo.path(QLibraryInfo.LibraryPath.PluginsPath), "platforms", "libqxcb.so")
    try:
        ctypes.CDLL(str(plugin))  # what Qt itself would do; it would abort where a library is missing
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError as error:
        raise DeviceUnavailable(
            f"Qt cannot show windows: {error}; on Debian and Ubuntu: apt install {NEEDS}"
        ) from error
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    broken = xcb.xcb_connection_has_error(connection)
    xcb.xcb_disconnect(connection)
    if broken:
        raise DeviceUnavailable(
            f"the display '{display}' does not answer: is it running, and may this user draw on it?"
        )


def _wayland_answers() -> bool:
    name = os.environ.get("WAYLAND_DISPLAY")
    if not name:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(2)
            line.connect(str(Path(os.environ.get("XDG_RUNTIME_DIR", "/"), name)))
    except OSError:
        return False
    return True
