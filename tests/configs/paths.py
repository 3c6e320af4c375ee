# Paths by pathlib.
import pathlib
import tempfile

base = pathlib.Path(tempfile.mkdtemp())
pidfile = str(base / "shop.pid")
errorlog = str(base / "error.log")
accesslog = f"{base}/access.log"
