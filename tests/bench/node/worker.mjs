// The way of the original runtime: a stub in JavaScript in a worker thread, behind `postMessage`. It
// takes the same orders as the other sides: `trip <bytes of body> <times>` answers with nanoseconds,
// `version` with the version of Node.js.

import { createInterface } from 'node:readline';
import { Worker, isMainThread, parentPort } from 'node:worker_threads';

if (isMainThread) {
  main();
} else {
  parentPort.on('message', (message) => {
    parentPort.postMessage({ ...message, from: message.to, to: message.from });
  });
}

function main() {
  const stub = new Worker(new URL(import.meta.url));
  stub.once('online', async () => {
    console.log('ready');
    for await (const order of createInterface({ input: process.stdin })) {
      try {
        console.log(await follow(stub, order.split(' ')));
      } catch (error) {
        console.log(`error: ${error.message}`);
      }
    }
    await stub.terminate();
  });
}

async function follow(stub, [order, bytes, times]) {
  switch (order) {
    case 'version':
      return process.version;
    case 'trip':
      return (await trips(stub, Number(bytes), Number(times))).toString();
    default:
      throw new Error('unknown order; the orders are trip, version');
  }
}

// The body is a text, which is copied as it is. An object would be serialised in each direction.
function trips(stub, bytes, times) {
  const body = json(bytes);
  const message = { id: 7, type: 'update', from: 'hyperty://home.example/bench', to: 'hyperty://sp1.example/alice', body };
  return new Promise((resolve, reject) => {
    let left = times;
    const begun = process.hrtime.bigint();
    const onMessage = (back) => {
      if (back.from !== message.to || back.body.length !== body.length) {
        finish(() => reject(new Error('the reply is not an echo')));
      } else if (--left > 0) {
        stub.postMessage(message);
      } else {
        const took = process.hrtime.bigint() - begun;
        finish(() => resolve(took));
      }
    };
    const finish = (settle) => {
      stub.off('message', onMessage);
      settle();
    };
    stub.on('message', onMessage);
    stub.postMessage(message);
  });
}

function json(bytes) {
  const letters = 'abcdefghijklmnopqrstuvwxyz';
  const text = Array.from({ length: bytes - '{"text":""}'.length }, (_, at) => letters[at % letters.length]).join('');
  return `{"text":"${text}"}`;
}
