// The requests of one GenerateMany call, told apart by their numbers.

import { QuireError, refusal } from './refusal.js';

/**
 * Many requests over one call. What a step brings to all of them is one message.
 */
export class Many {
  constructor(call, check) {
    this._call = call;
    this._check = check;
    this._next = 1;
    this._waiting = new Map();
    this._error = null;
    call.on('data', (message) => message.parts.forEach((part) => this._take(part)));
    call.on('error', (error) => this._end(refusal(error)));
    call.on('end', () => this._end(new QuireError('UNAVAILABLE', 'the server has ended the call', undefined)));
  }

  /**
   * The answer in pieces, each a GenerateStreamResponse. Leaving the loop cancels this request and no other.
   *
   * @param {object} request a GenerateRequest.
   * @param {{signal?: AbortSignal}} options cancels the request.
   */
  async *generateStream(request, { signal } = {}) {
    this._check(request);
    if (this._error) throw this._error;
    const number = this._next++;
    const pieces = new Pieces();
    this._waiting.set(number, pieces);
    this._call.write({ number, generate: request });
    const cancel = () => this._call.write({ number, cancel: {} });
    signal?.addEventListener('abort', cancel);
    if (signal?.aborted) cancel();
    try {
      for (;;) {
        const piece = await pieces.next();
        yield piece;
        if (piece.finish) return;
      }
    } finally {
      signal?.removeEventListener('abort', cancel);
      if (this._waiting.delete(number)) cancel();
    }
  }

  /** No more requests come; those that run go on. */
  close() {
    this._call.end();
  }

  _take({ number, response, failure }) {
    const pieces = this._waiting.get(Number(number));
    if (failure || response.finish) this._waiting.delete(Number(number));
    if (failure) pieces?.fail(QuireError.ofFailure(failure));
    else pieces?.push(response);
  }

  _end(error) {
    this._error = error;
    for (const pieces of this._waiting.values()) pieces.fail(error);
    this._waiting.clear();
  }
}

/** What has come for one request and is not read yet. */
class Pieces {
  constructor() {
    this._come = [];
    this._error = null;
    this._wake = () => {};
  }

  push(piece) {
    this._come.push(piece);
    this._wake();
  }

  fail(error) {
    this._error = error;
    this._wake();
  }

  async next() {
    while (!this._come.length) {
      if (this._error) throw this._error;
      await new Promise((resolve) => (this._wake = resolve));
    }
    return this._come.shift();
  }
}
