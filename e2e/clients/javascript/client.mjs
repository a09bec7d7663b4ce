// What the Kubernetes client for JavaScript does with streams of pods; prints what it saw, as JSON.
//
// Arguments: kubeconfig, namespace, address of the kubelet port. There must be the pods `shell`, `listener` and
// `server`.

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { PassThrough, Writable } from 'node:stream';
import { Attach, Exec, KubeConfig, PortForward } from '@kubernetes/client-node';
import WebSocket from 'ws';

const DEADLINE_MS = 60_000;
const BULK = 4 << 20;
// Those that a kubelet knows; what is in base64 comes as text.
const PROTOCOLS = [
  'channel.k8s.io',
  'base64.channel.k8s.io',
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  'v5.channel.k8s.io',
];

const [kubeconfig, namespace, kubelet] = process.argv.slice(2);
const config = new KubeConfig();
config.loadFromFile(kubeconfig);

const print = (seen) => console.log(JSON.stringify(seen));
const within = (what, promise) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not in time`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

// A sink that keeps what is written to it.
class Kept extends Writable {
  bytes = Buffer.alloc(0);

  _write(chunk, _encoding, done) {
    this.bytes = Buffer.concat([this.bytes, chunk]);
    this.emit('more');
    done();
  }

  text() {
    return this.bytes.toString().replaceAll('\r\n', '\n');
  }

  async until(ending) {
    while (!this.text().endsWith(ending)) {
      await once(this, 'more');
    }
    return this.text();
  }
}

const code = (status) => Number(status.details?.causes?.find((cause) => cause.reason === 'ExitCode')?.message ?? 0);

// Standard output, standard error and exit code of a script.
async function run(script, stdin = null) {
  const [out, err] = [new Kept(), new Kept()];
  const ended = new Promise((resolve, reject) => {
    new Exec(config)
      .exec(namespace, 'shell', 'main', ['sh', '-c', script], out, err, stdin, false, resolve)
      .catch(reject);
  });
  const status = await within(script, ended);
  return [out, err.text(), code(status)];
}

async function simple() {
  const [out, err, exit] = await run('echo out; echo err >&2; exit 7');
  return [out.text(), err, exit];
}

async function bulk() {
  const [out] = await run(`head -c ${BULK} /dev/zero | tr '\\0' y`);
  return [out.bytes.length, createHash('sha256').update(out.bytes).digest('hex')];
}

// The end of the input arrives, which needs v5.
async function counted() {
  const stdin = new PassThrough();
  stdin.end(Buffer.alloc(1 << 20, 'x'));
  const [out] = await run('wc -c', stdin);
  return out.text();
}

async function resized() {
  const out = new Kept();
  Object.assign(out, { rows: 33, columns: 111 });
  const script = 'until [ "$(stty size 2>/dev/null)" = "33 111" ]; do sleep 0.1; done; echo sized';
  const exec = new Exec(config);
  const connection = await exec.exec(
    namespace, 'shell', 'main', ['sh', '-c', script], out, null, new PassThrough(), true, () => {},
  );
  const text = await within('the size', out.until('sized\n'));
  connection.close();
  return text;
}

async function attached() {
  const [out, stdin] = [new Kept(), new PassThrough()];
  const connection = await new Attach(config).attach(namespace, 'listener', 'main', out, null, stdin, false);
  stdin.write('javascript\n');
  const text = await within('an answer', out.until('\n'));
  connection.close();
  return text;
}

// The page of port 8082, through a server on loopback as the library's example has it.
async function page() {
  const forward = new PortForward(config);
  const server = net.createServer((socket) => {
    forward.portForward(namespace, 'server', [8082], socket, null, socket).catch((error) => socket.destroy(error));
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const socket = net.connect(server.address().port, '127.0.0.1');
  const answer = new Kept();
  socket.pipe(answer);
  socket.write('GET / HTTP/1.0\r\n\r\n');
  const text = await within('the page', answer.until('two\n'));
  socket.destroy();
  server.close();
  return text.split('\n\n').at(-1);
}

// What `echo` prints by each subprotocol at one address.
async function protocols(where, path) {
  const options = {};
  await config.applyToHTTPSOptions(options);
  const seen = {};
  for (const protocol of PROTOCOLS) {
    const socket = new WebSocket(`${where.replace('https', 'wss')}${path}`, [protocol], options);
    let out = '';
    socket.on('message', (data) => {
      const inBase64 = protocol.includes('base64');
      const channel = inBase64 ? data[0] - '0'.charCodeAt(0) : data[0];
      if (channel === 1) {
        out += inBase64 ? Buffer.from(data.subarray(1).toString(), 'base64') : data.subarray(1);
      }
    });
    await within(`${protocol} at ${where}`, once(socket, 'close'));
    seen[socket.protocol] = out;
  }
  return seen;
}

const command = 'command=echo&command=spoken';
print({
  run: await simple(),
  bulk: await bulk(),
  counted: await counted(),
  resized: await resized(),
  attached: await attached(),
  page: await page(),
});
const { server } = config.getCurrentCluster();
const api = `/api/v1/namespaces/${namespace}/pods/shell/exec?container=main&stdout=true&${command}`;
print({ protocols: await protocols(server, api) });
print({ protocols: await protocols(`https://${kubelet}`, `/exec/${namespace}/shell/main?output=1&${command}`) });
process.exit(0);
