// A protocol stub without a protocol. It answers every request with its body, and posts every other
// message back to its sender.

import { post } from 'rethink:protostub/bus@0.1.0';
import { publish } from 'rethink:protostub/presence@0.1.0';

const REQUESTS = ['create', 'read', 'delete', 'subscribe', 'unsubscribe', 'execute'];

const expectsResponse = ({ type, headers }) =>
  REQUESTS.includes(type.tag) ||
  (type.tag !== 'response' && headers.some(([name, value]) => name === 'expects-response' && value === 'true'));

const echo = (message) => {
  const back = { ...message, from: message.to, to: message.from, via: [] };
  return expectsResponse(message) ? { ...back, type: { tag: 'response' }, headers: [] } : back;
};

export const stub = {
  // The stub needs no preparation. To refuse the deployment: `throw 'why, and what to do'`.
  start(url) {},

  handle(events) {
    const echoes = [];
    for (const { tag, val } of events) {
      if (tag === 'connect') {
        publish('in-progress');
        publish('live');
      } else if (tag === 'disconnect') {
        publish('disconnected');
      } else if (tag === 'message') {
        echoes.push(echo(val));
      }
    }
    if (echoes.length > 0) post(echoes);
  },
};
