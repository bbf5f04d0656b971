// A protocol stub that answers every message with its own body.

import { post } from 'rethink:protostub/bus@0.1.0';
import { publish } from 'rethink:protostub/presence@0.1.0';

const replyTo = ({ id, from, to, body }) => ({ id, type: { tag: 'response' }, from: to, to: from, via: [], headers: [], body });

export const stub = {
  // Nothing to prepare. To refuse the deployment: `throw 'why, and what to do'`.
  start(url) {},

  handle(events) {
    const replies = [];
    for (const { tag, val } of events) {
      if (tag === 'connect') {
        publish('in-progress');
        publish('live');
      } else if (tag === 'disconnect') {
        publish('disconnected');
      } else if (tag === 'message' && val.type.tag !== 'response') {
        replies.push(replyTo(val));
      }
    }
    if (replies.length > 0) post(replies);
  },
};
