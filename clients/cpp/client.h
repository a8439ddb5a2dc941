// A client of quire.v1.InferenceService.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "error.h"
#include "many.h"
#include "quire/v1/inference.grpc.pb.h"

namespace quire {

// One connection to a frontend. Threads may share it. Every method throws `Error` if the call fails.
class Client {
 public:
  // Called with each piece of an answer; false cancels the request.
  using OnPiece = std::function<bool(const v1::GenerateStreamResponse&)>;
  using Timeout = std::optional<std::chrono::milliseconds>;

  // `address` is a frontend's "host:port"; no call may take longer than `timeout`, if there is one.
  explicit Client(const std::string& address, Timeout timeout = std::nullopt);

  // The whole answer.
  v1::GenerateResponse generate(const v1::GenerateRequest& request);

  // The answer in pieces, until its end or until `on_piece` returns false, which throws an `Error` of CANCELLED.
  void generate_stream(const v1::GenerateRequest& request, const OnPiece& on_piece);

  // One call for many requests, which must end before the client does.
  std::unique_ptr<Many> many();

  v1::TokenizeResponse tokenize(const v1::TokenizeRequest& request);
  v1::DetokenizeResponse detokenize(const v1::DetokenizeRequest& request);
  v1::GetModelResponse model();
  v1::GetServerResponse server();

 private:
  void begin(grpc::ClientContext& context) const;

  template <typename Response, typename Request, typename Method>
  Response unary(Method method, const Request& request);

  std::unique_ptr<v1::InferenceService::Stub> stub_;
  Timeout timeout_;
};

}  // namespace quire
