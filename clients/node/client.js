// A client of quire.v1.InferenceService.

import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

import { checkFields } from './fields.js';
import { Many } from './many.js';
import { refusal } from './refusal.js';

export { QuireError } from './refusal.js';

const PROTOS = fileURLToPath(new URL('../../protos', import.meta.url));
// Field names stay as in the protos: README.md says why.
const LOADING = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [PROTOS] };
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

const { quire } = grpc.loadPackageDefinition(protoLoader.loadSync('quire/v1/inference.proto', LOADING));

/**
 * One connection to a frontend. Messages are those of quire.v1, as objects with the protos' own field names.
 *
 * Every method rejects with a `QuireError` if the call fails, and with a `TypeError` if a message has a field that the
 * protos do not.
 */
export class Client {
  /** @param {string} address "host:port" of a frontend. */
  constructor(address) {
    const options = { 'grpc.max_receive_message_length': MAX_MESSAGE_BYTES };
    this._stub = new quire.v1.InferenceService(address, grpc.credentials.createInsecure(), options);
  }

  /** Disconnects when the calls that run are over. */
  close() {
    this._stub.close();
  }

  /**
   * The whole answer, a GenerateResponse.
   *
   * @param {object} request a GenerateRequest.
   * @param {{signal?: AbortSignal, timeout?: number}} options cancels the request; milliseconds that it may take.
   */
  generate(request, options = {}) {
    return this._unary('Generate', 'GenerateRequest', request, options);
  }

  /** The token ids of a text, as TokenizeResponse. */
  tokenize(request, options = {}) {
    return this._unary('Tokenize', 'TokenizeRequest', request, options);
  }

  /** The text of token ids, as DetokenizeResponse. */
  detokenize(request, options = {}) {
    return this._unary('Detokenize', 'DetokenizeRequest', request, options);
  }

  /** The model that is served, as GetModelResponse. */
  model(options = {}) {
    return this._unary('GetModel', 'GetModelRequest', {}, options);
  }

  /** The server, as GetServerResponse. */
  server(options = {}) {
    return this._unary('GetServer', 'GetServerRequest', {}, options);
  }

  /**
   * The answer in pieces, each a GenerateStreamResponse. Leaving the loop cancels the request.
   *
   * @param {object} request a GenerateRequest.
   * @param {{signal?: AbortSignal, timeout?: number}} options as of `generate`.
   */
  async *generateStream(request, { signal, timeout } = {}) {
    checkFields(quire.v1, 'GenerateRequest', request);
    const call = this._stub.GenerateStream(request, deadline(timeout));
    const cancel = () => call.cancel();
    signal?.addEventListener('abort', cancel);
    if (signal?.aborted) cancel();
    try {
      yield* call;
    } catch (error) {
      throw refusal(error);
    } finally {
      signal?.removeEventListener('abort', cancel);
      // What comes after a cancellation has no reader.
      call.on('error', () => {});
      call.cancel();
    }
  }

  /** One call for many requests. `close` it when no more come. */
  many() {
    return new Many(this._stub.GenerateMany(), (request) => checkFields(quire.v1, 'GenerateRequest', request));
  }

  async _unary(method, type, request, { signal, timeout }) {
    checkFields(quire.v1, type, request);
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      const call = this._stub[method](request, deadline(timeout), (error, response) => {
        signal?.removeEventListener('abort', cancel);
        if (error) reject(refusal(error));
        else resolve(response);
      });
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel);
    });
  }
}

function deadline(timeout) {
  return timeout === undefined ? {} : { deadline: Date.now() + timeout };
}
