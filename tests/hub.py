"A stand-in for the Hugging Face hub: repositories in memory, on this machine"
import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = '0' * 40


class Hub(BaseHTTPRequestHandler):
    repos: dict[str, dict[str, bytes]] = {}

    def log_message(self, *args):
        pass

    def reply(self, body=b'', status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in ({'Content-Length': len(body)} | headers).items():
            self.send_header(k.replace('_', '-'), str(v))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def url(self, path):
        return f"http://{self.headers['Host']}/{path}"

    def missing(self):
        self.reply({'error': 'Repository not found'}, 404,
                   X_Error_Code='RepoNotFound', X_Error_Message='Repository not found')

    def do_GET(self):
        path = self.path.split('?')[0].strip('/').split('/')
        name = '/'.join(path[2:4] if path[0] == 'api' else path[:2])
        files = self.repos.get(name)
        if files is None:
            self.missing()
        elif path[0] == 'api' and 'tree' in path:
            self.reply([{'type': 'file', 'path': k, 'size': len(v), 'oid': COMMIT}
                        for k, v in files.items()])
        elif path[0] == 'api':
            self.reply({'id': name, 'modelId': name, 'sha': COMMIT, 'private': False,
                        'tags': [], 'downloads': 0, 'likes': 0,
                        'siblings': [{'rfilename': k} for k in files]})
        else:  # user/name/resolve/COMMIT/file
            body = files['/'.join(path[4:])]
            etag = hashlib.sha1(body).hexdigest()
            self.reply(body, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self):
        size = int(self.headers.get('Content-Length') or 0)
        body = self.rfile.read(size) if size else self.chunks()
        path = self.path.split('?')[0].strip('/').split('/')
        if path[-1] == 'create':
            asked = json.loads(body)
            name = '/'.join(o for o in (asked.get('organization'), asked['name']) if o)
            self.repos.setdefault(name, {})
            self.reply({'url': self.url(name), 'name': name, 'id': name})
        elif path[-1] == 'validate-yaml':
            self.reply({'errors': [], 'warnings': []})
        elif path[-2] == 'preupload':
            files = json.loads(body)['files']
            self.reply({'files': [{'path': f['path'], 'uploadMode': 'regular',
                                   'shouldIgnore': False} for f in files]})
        elif path[-2] == 'commit':
            for line in filter(None, body.splitlines()):
                item = json.loads(line)
                if item['key'] == 'file':
                    content = base64.b64decode(item['value']['content'])
                    self.repos['/'.join(path[2:4])][item['value']['path']] = content
            name = '/'.join(path[2:4])
            self.reply({'success': True, 'commitOid': COMMIT,
                        'commitUrl': self.url(f'{name}/commit/{COMMIT}')})
        else:
            self.missing()

    def chunks(self) -> bytes:
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


@contextmanager
def hub():
    "Serve an empty hub; gives its address"
    handler = type('EmptyHub', (Hub,), {'repos': {}})
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}', handler.repos
    finally:
        server.shutdown()
        server.server_close()
