"""Configuration of the documentation; ``make docs`` builds it, and warnings are errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent))
# Guides are executed in kernels of their own, which import this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
# So is their command line.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each guide has a Ray of its own, whatever else runs on the machine.
os.environ.setdefault("RAY_ADDRESS", "local")

import atoll

project = "Atoll"
author = "The Atoll developers"
copyright = "The Atoll developers"
release = version = atoll.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
    "atoll_reference",
]
exclude_patterns = ["_build", "_ext", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"Atoll {release}"
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# A guide that fails, or has a cell that takes more than ten minutes, fails the build.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = False
# Progress of Ray and of the run.
nb_output_stderr = "remove"
# A cell may write a file that is no Python: rows with "?", say.
suppress_warnings = ["misc.highlighting_failure"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
