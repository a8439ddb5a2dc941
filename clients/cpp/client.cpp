#include "client.h"

namespace quire {
namespace {

constexpr int kMaxMessageBytes = 64 * 1024 * 1024;

std::shared_ptr<grpc::Channel> open_channel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void check(const grpc::Status& status) {
  if (!status.ok()) throw Error(status);
}

}  // namespace

Client::Client(const std::string& address, Timeout timeout)
    : stub_(v1::InferenceService::NewStub(open_channel(address))), timeout_(timeout) {}

void Client::begin(grpc::ClientContext& context) const {
  if (timeout_) context.set_deadline(std::chrono::system_clock::now() + *timeout_);
}

template <typename Response, typename Request, typename Method>
Response Client::unary(Method method, const Request& request) {
  grpc::ClientContext context;
  begin(context);
  Response response;
  check((stub_.get()->*method)(&context, request, &response));
  return response;
}

v1::GenerateResponse Client::generate(const v1::GenerateRequest& request) {
  return unary<v1::GenerateResponse>(&v1::InferenceService::Stub::Generate, request);
}

void Client::generate_stream(const v1::GenerateRequest& request, const OnPiece& on_piece) {
  grpc::ClientContext context;
  begin(context);
  const auto reader = stub_->GenerateStream(&context, request);
  v1::GenerateStreamResponse piece;
  try {
    while (reader->Read(&piece)) {
      if (!on_piece(piece)) context.TryCancel();
    }
  } catch (...) {
    context.TryCancel();
    reader->Finish();
    throw;
  }
  check(reader->Finish());
}

std::unique_ptr<Many> Client::many() { return std::make_unique<Many>(*stub_); }

v1::TokenizeResponse Client::tokenize(const v1::TokenizeRequest& request) {
  return unary<v1::TokenizeResponse>(&v1::InferenceService::Stub::Tokenize, request);
}

v1::DetokenizeResponse Client::detokenize(const v1::DetokenizeRequest& request) {
  return unary<v1::DetokenizeResponse>(&v1::InferenceService::Stub::Detokenize, request);
}

v1::GetModelResponse Client::model() {
  return unary<v1::GetModelResponse>(&v1::InferenceService::Stub::GetModel, v1::GetModelRequest());
}

v1::GetServerResponse Client::server() {
  return unary<v1::GetServerResponse>(&v1::InferenceService::Stub::GetServer, v1::GetServerRequest());
}

}  // namespace quire
