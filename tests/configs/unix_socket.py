# Behind nginx, twice.
import tempfile

_folder = tempfile.mkdtemp()
bind = [f"unix:{_folder}/a.sock", f"unix:{_folder}/b.sock"]
umask = 0o007
backlog = 512
