"""The same servers over TLS 1.3: ours, ours behind nginx, picows with ``ssl``. All have a key of one kind.

nginx is configured as ``docs/deploy/nginx.conf`` is, with one process and without a log.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

from bench.server import Command
from bench.subjects import SUBJECTS, Setting, Subject, certificate, module

_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_protocols TLSv1.3;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        location / {{
            proxy_pass http://127.0.0.1:{behind};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


def _nginx(setting: Setting) -> Command:
    path = setting.folder / "nginx.conf"
    path.write_text(
        _NGINX.format(
            folder=setting.folder,
            port=setting.port,
            behind=setting.options["behind"],
            pem=certificate(setting.folder),
        )
    )
    return Command((nginx_program() or "nginx", "-c", str(path), "-p", str(setting.folder)))


def nginx_program() -> str | None:
    """Where nginx is; Debian has it where only root looks."""
    return shutil.which("nginx") or next(iter(map(str, Path("/usr/sbin").glob("nginx"))), None)


def _picows(setting: Setting) -> Command:
    return module("bench.peers.picows_server", "--tls", str(certificate(setting.folder)))(setting)


def no_certificates() -> str | None:
    """Why nothing can be secured here, or None."""
    return None if importlib.util.find_spec("trustme") else "the package trustme is not installed"


def _no_nginx() -> str | None:
    return no_certificates() or (
        None if nginx_program() else "nginx is not installed (apt-get install nginx)"
    )


def _ours(setting: Setting) -> Command:
    return SUBJECTS["ours"].command(replace(setting, options={**setting.options, "tls": "1"}))


_ALL = (
    Subject("tls", "Trireme, TLS", _ours, SUBJECTS["ours"].dialect, no_certificates),
    replace(
        SUBJECTS["ours"], name="nginx", title="nginx ends TLS before Trireme", missing=_no_nginx, front=_nginx
    ),
    replace(
        SUBJECTS["picows"],
        name="picows-tls",
        title="picows with ssl",
        command=_picows,
        missing=no_certificates,
    ),
)
SECURE = {subject.name: subject for subject in _ALL}
"""What speaks TLS; the load has to as well (``Plan.tls``)."""
