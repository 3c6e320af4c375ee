# Objects of pathlib where texts are expected.
import pathlib
import tempfile

base = pathlib.Path(tempfile.mkdtemp())
pidfile = base / "shop.pid"
errorlog = str(base / "error.log")
accesslog = base / "access.log"
