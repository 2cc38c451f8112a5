"""Layouts: published networks, written here, whose weights are recognised by the names and shapes in their files.

After spandrel's idea: one small file a layout, its facts as data. A file of weights says neither what network it
belongs to nor how it is used; names and shapes of its tensors do.
"""

from __future__ import annotations

from edgekit.exporters.readers.layouts.dcgan import DCGAN
from edgekit.exporters.readers.layouts.espcn import ESPCN
from edgekit.exporters.readers.layouts.fsrcnn import FSRCNN
from edgekit.exporters.readers.layouts.layout import Layout
from edgekit.exporters.readers.layouts.srvgg import SRVGG
from edgekit.exporters.readers.layouts.transformer_net import TRANSFORMER_NET

LAYOUTS: tuple[Layout, ...] = (SRVGG, TRANSFORMER_NET, FSRCNN, ESPCN, DCGAN)
