// gRPC statuses as errors that say whether, and when, the same request may be sent again.

import grpc from '@grpc/grpc-js';
import protobuf from 'protobufjs';

// What of google.rpc.Status and google.rpc.RetryInfo is read here.
const { root } = protobuf.parse(`
  syntax = "proto3";
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message Detail { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Detail details = 3; }
`);
const Status = root.lookupType('Status');
const RetryInfo = root.lookupType('RetryInfo');
const RETRY_INFO = 'type.googleapis.com/google.rpc.RetryInfo';

/** A call that failed. */
export class QuireError extends Error {
  /**
   * @param {string} code name of the gRPC status, such as "INVALID_ARGUMENT".
   * @param {string} message for INVALID_ARGUMENT the field, what is allowed, and the value.
   * @param {number | undefined} retryAfter milliseconds after which the same request may be sent again; undefined: it
   *   would fail again, or the server does not know.
   */
  constructor(code, message, retryAfter) {
    super(`${code}: ${message}`);
    this.name = 'QuireError';
    this.code = code;
    this.details = message;
    this.retryAfter = retryAfter;
  }

  /** Of a GenerateFailure. */
  static ofFailure({ code, message, retry_delay }) {
    return new QuireError(grpc.status[code], message, retry_delay ? milliseconds(retry_delay) : undefined);
  }
}

/** The error of a failed call. */
export function refusal(error) {
  if (error.code === undefined || error.metadata === undefined) return error;
  const [binary] = error.metadata.get('grpc-status-details-bin');
  const details = binary ? Status.decode(binary).details : [];
  const info = details.find((each) => each.typeUrl === RETRY_INFO);
  const retryAfter = info && milliseconds(RetryInfo.decode(info.value).retryDelay);
  return new QuireError(grpc.status[error.code], error.details, retryAfter);
}

function milliseconds({ seconds, nanos }) {
  return Number(seconds) * 1000 + nanos / 1e6;
}
