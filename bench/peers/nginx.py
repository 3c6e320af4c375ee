"""nginx, where it can answer alone: `return` for short answers, a file with sendfile for files. A reference."""

import shutil

REQUIREMENTS = []
KINDS = {"asgi", "wsgi"}
VERSION = ["nginx", "-v"]

CONFIG = """
daemon off; worker_processes {workers}; pid {folder}/pid; error_log stderr error; {user}
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type text/plain;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; open_file_cache max=10;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{ {answer} }}
    }}
}}
"""


def reference(row, port, workers, folder):
    if "files" in row.load.needs:
        (folder / "file").mkdir()
        (folder / "file" / str(len(row.load.body))).write_bytes(row.load.body)
        answer = f"root {folder};"
    elif row.load_name in ("hello", "browser", "pipelined", "connect", "latency"):
        answer = f'return 200 "{row.load.body.decode()}";'
    else:
        return None
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise FileNotFoundError("nginx is not installed (Debian: nginx-light)")
    user = "user root;" if folder.stat().st_uid == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(workers=workers, folder=folder, port=port, answer=answer, user=user))
    return [program, "-e", "stderr", "-p", str(folder), "-c", str(config)]
