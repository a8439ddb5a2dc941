// Many requests over one call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "error.h"
#include "quire/v1/inference.grpc.pb.h"

namespace quire {

// The requests of one GenerateMany call. What a step brings to all of them is one message. One thread reads; others may
// call `start` and `cancel` meanwhile, one at a time.
class Many {
 public:
  // Called with the number of a request and a piece of its answer, or the error that ended it.
  using OnPiece = std::function<void(uint64_t, const v1::GenerateStreamResponse&)>;
  using OnError = std::function<void(uint64_t, const Error&)>;

  explicit Many(v1::InferenceService::Stub& stub) : call_(stub.GenerateMany(&context_)) {}
  // Cancels what runs.
  ~Many();

  // Sends a request; returns its number.
  uint64_t start(const v1::GenerateRequest& request);

  // Ends a request with an error of CANCELLED; no effect if it has ended.
  void cancel(uint64_t number);

  // No more requests come.
  void close() { call_->WritesDone(); }

  // Reads one message and hands out its parts; false: the call is over. Throws `Error` if the call failed.
  bool read(const OnPiece& on_piece, const OnError& on_error);

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::GenerateManyRequest, v1::GenerateManyResponse>> call_;
  uint64_t next_ = 1;
  bool is_over_ = false;
};

}  // namespace quire
