#include "many.h"

namespace quire {

Many::~Many() {
  if (is_over_) return;
  context_.TryCancel();
  call_->Finish();
}

uint64_t Many::start(const v1::GenerateRequest& request) {
  v1::GenerateManyRequest message;
  message.set_number(next_);
  *message.mutable_generate() = request;
  call_->Write(message);  // if the call has failed, `read` says why
  return next_++;
}

void Many::cancel(uint64_t number) {
  v1::GenerateManyRequest message;
  message.set_number(number);
  message.mutable_cancel();
  call_->Write(message);
}

bool Many::read(const OnPiece& on_piece, const OnError& on_error) {
  v1::GenerateManyResponse message;
  if (!call_->Read(&message)) {
    is_over_ = true;
    const grpc::Status status = call_->Finish();
    if (!status.ok()) throw Error(status);
    return false;
  }
  for (const auto& part : message.parts()) {
    if (part.has_failure()) {
      on_error(part.number(), Error(part.failure()));
    } else {
      on_piece(part.number(), part.response());
    }
  }
  return true;
}

}  // namespace quire
