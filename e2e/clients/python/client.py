"""What the Kubernetes client for Python does with streams of pods; prints what it saw, as JSON.

Arguments: kubeconfig, namespace. There must be the pods `shell`, `listener` and `server`.
"""

import hashlib
import json
import select
import sys
import time

from kubernetes import client, config
from kubernetes.stream import portforward, stream
from kubernetes.stream.ws_client import RESIZE_CHANNEL

# How long anything may take, in seconds.
DEADLINE = 60
BULK = 4 << 20


def read_until(channel, ending):
    """Standard output up to `ending`."""
    seen, end = "", time.monotonic() + DEADLINE
    while not seen.endswith(ending):
        # Nothing, if an empty message came, or one of another channel.
        seen += channel.read_stdout(timeout=1).replace("\r\n", "\n")
        if time.monotonic() > end:
            raise SystemExit(f"no {ending!r} after {seen!r}")
    return seen


class Pods:
    """The pods of a namespace, by one subprotocol or (None) those that the library offers by itself."""

    def __init__(self, namespace, protocol):
        self.namespace = namespace
        api = client.ApiClient()
        if protocol:
            api.set_default_header("sec-websocket-protocol", protocol)
        self.api = client.CoreV1Api(api)

    def exec(self, command, **how):
        how = {"stdin": False, "stdout": True, "stderr": True, "tty": False, **how}
        method = self.api.connect_get_namespaced_pod_exec
        return stream(method, "shell", self.namespace, command=command, _preload_content=False, **how)

    def run(self, script):
        """Standard output, standard error and exit code of a script."""
        channel = self.exec(["sh", "-c", script])
        channel.run_forever(timeout=DEADLINE)
        return [channel.read_stdout(), channel.read_stderr(), channel.returncode]

    def bulk(self):
        channel = self.exec(["sh", "-c", f"head -c {BULK} /dev/zero | tr '\\0' y"])
        channel.run_forever(timeout=DEADLINE)
        text = channel.read_stdout()
        return [len(text), hashlib.sha256(text.encode()).hexdigest()]

    def typed(self):
        channel = self.exec(["sh", "-c", "read -r word; echo heard $word"], stdin=True)
        channel.write_stdin("hello\n")
        heard = read_until(channel, "\n")
        channel.run_forever(timeout=DEADLINE)
        return heard

    def resized(self):
        script = 'until [ "$(stty size 2>/dev/null)" = "33 111" ]; do sleep 0.1; done; echo sized'
        channel = self.exec(["sh", "-c", script], stdin=True, stderr=False, tty=True)
        channel.write_channel(RESIZE_CHANNEL, json.dumps({"Height": 33, "Width": 111}))
        return read_until(channel, "sized\n")

    def attached(self):
        method = self.api.connect_get_namespaced_pod_attach
        how = {"stdin": True, "stdout": True, "stderr": False, "tty": False}
        channel = stream(method, "listener", self.namespace, _preload_content=False, **how)
        channel.write_stdin("python\n")
        heard = read_until(channel, "\n")
        channel.close()
        return heard

    def page(self):
        """The page of port 8082, through a forwarded connection."""
        forwarded = portforward(
            self.api.connect_get_namespaced_pod_portforward, "server", self.namespace, ports="8081,8082"
        )
        connection = forwarded.socket(8082)
        connection.setblocking(True)
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while select.select([connection], [], [], DEADLINE)[0]:
            part = connection.recv(65536)
            if not part:
                break
            answer += part
        return [answer.decode().split("\r\n\r\n", 1)[1], forwarded.error(8082)]


def main():
    kubeconfig, namespace = sys.argv[1:]
    config.load_kube_config(kubeconfig)
    for protocol in [None, "v4.channel.k8s.io"]:
        pods = Pods(namespace, protocol)
        seen = {
            "protocol": pods.exec(["true"]).subprotocol,
            "run": pods.run("echo out; echo err >&2; exit 7"),
            "bulk": pods.bulk(),
            "typed": pods.typed(),
            "resized": pods.resized(),
            "attached": pods.attached(),
        }
        print(json.dumps(seen), flush=True)
    # Port-forward has one subprotocol only.
    print(json.dumps({"page": Pods(namespace, "v4.channel.k8s.io").page()}), flush=True)


main()
