"""What the code server of an image serves: the definitions that `pyproject.toml` names.

So that the command which starts it is the same in every project. Its working directory is the project.
"""

from importlib import import_module
from pathlib import Path

from sqlmesh_dagster.commands.location import code_location

_module = import_module(code_location(Path.cwd()).module)
globals().update({name: value for name, value in vars(_module).items() if name[0] != "_"})
