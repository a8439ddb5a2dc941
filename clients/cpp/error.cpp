#include "error.h"

#include <google/protobuf/util/time_util.h>

#include "status.pb.h"

namespace quire {
namespace {

std::chrono::milliseconds milliseconds(const google::protobuf::Duration& duration) {
  return std::chrono::milliseconds(google::protobuf::util::TimeUtil::DurationToMilliseconds(duration));
}

std::optional<std::chrono::milliseconds> retry_after(const grpc::Status& status) {
  client::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& detail : details.details()) {
    client::RetryInfo info;
    if (detail.type_url() == "type.googleapis.com/google.rpc.RetryInfo" && info.ParseFromString(detail.value())) {
      return milliseconds(info.retry_delay());
    }
  }
  return std::nullopt;
}

}  // namespace

Error::Error(const grpc::Status& status)
    : std::runtime_error(status.error_message()),
      code_(status.error_code()),
      retry_after_(quire::retry_after(status)) {}

Error::Error(const v1::GenerateFailure& failure)
    : std::runtime_error(failure.message()), code_(static_cast<grpc::StatusCode>(failure.code())) {
  if (failure.has_retry_delay()) retry_after_ = milliseconds(failure.retry_delay());
}

}  // namespace quire
