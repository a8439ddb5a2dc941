// Calls a frontend in every way and prints what came, as JSON: tests/clients/ compare it with the Python client's.
//
//   node conformance.js ADDRESS FULL
//
// ADDRESS is a frontend's host:port, FULL that of a frontend which takes no more requests.

import grpc from '@grpc/grpc-js';

import { Client, QuireError } from './client.js';

const PROMPT = 'def mean(values):\n';
const GREEDY = { text: PROMPT, sampling: { temperature: 0, max_tokens: 24, ignore_eos: true } };
const SEEDED = { text: PROMPT, sampling: { seed: '18446744073709551615', max_tokens: 24, ignore_eos: true } };
const LONG = { text: PROMPT, sampling: { temperature: 0, max_tokens: 1200, ignore_eos: true } };

const [address, full] = process.argv.slice(2);

async function gathered(pieces) {
  const answer = { text: '', token_ids: [], num_pieces: 0 };
  for await (const piece of pieces) {
    answer.text += piece.text;
    answer.token_ids.push(...piece.token_ids);
    answer.num_pieces += 1;
    if (piece.finish) answer.reason = piece.finish.reason;
  }
  return answer;
}

async function failure(attempt) {
  try {
    await attempt();
  } catch (error) {
    if (!(error instanceof QuireError)) throw error;
    return { code: grpc.status[error.code], message: error.details, retry_ms: error.retryAfter ?? null };
  }
  throw new Error('it should have failed');
}

/** Aborts at the first piece, and reads on. */
async function abortedStream(start) {
  const abort = new AbortController();
  for await (const piece of start(abort.signal)) abort.abort();
}

const client = new Client(address);
const { text, token_ids, finish } = await client.generate(GREEDY);
const many = client.many();
const [first, second, cancelled] = await Promise.all([
  gathered(many.generateStream(GREEDY)),
  gathered(many.generateStream(SEEDED)),
  failure(() => abortedStream((signal) => many.generateStream(LONG, { signal }))),
]);
many.close();

const crowded = new Client(full);
console.log(
  JSON.stringify({
    unary: { text, token_ids, reason: finish.reason, prompt_tokens: finish.usage.prompt_tokens },
    stream: await gathered(client.generateStream(SEEDED)),
    many: [first, second],
    cancelled_of_many: cancelled,
    cancelled: await failure(() => abortedStream((signal) => client.generateStream(LONG, { signal }))),
    refused: await failure(() => client.generate({ text: PROMPT, sampling: { top_p: 2 } })),
    overloaded: await failure(() => crowded.generate(GREEDY)),
    tokens: (await client.tokenize({ text: PROMPT })).token_ids,
  }),
);
crowded.close();
client.close();
