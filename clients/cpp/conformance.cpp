// Calls a frontend in every way and prints what came, as JSON: tests/clients/ compare it with the Python client's.
//
//   conformance ADDRESS FULL
//
// ADDRESS is a frontend's host:port, FULL that of a frontend which takes no more requests.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <iostream>
#include <map>

#include "client.h"

namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

const char* const kPrompt = "def mean(values):\n";
constexpr int kLong = 1200;

quire::v1::GenerateRequest greedy(int max_tokens) {
  quire::v1::GenerateRequest request;
  request.set_text(kPrompt);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

quire::v1::GenerateRequest seeded() {
  auto request = greedy(24);
  request.mutable_sampling()->clear_temperature();
  request.mutable_sampling()->set_seed(UINT64_MAX);
  return request;
}

Value number(double value) {
  Value made;
  made.set_number_value(value);
  return made;
}

Value string(const std::string& value) {
  Value made;
  made.set_string_value(value);
  return made;
}

Value object(const std::map<std::string, Value>& fields) {
  Value made;
  for (const auto& [name, value] : fields) (*made.mutable_struct_value()->mutable_fields())[name] = value;
  return made;
}

template <typename Values>
Value list(const Values& values) {
  Value made;
  for (const auto each : values) *made.mutable_list_value()->add_values() = number(each);
  return made;
}

std::string reason(const quire::v1::Finish& finish) { return quire::v1::FinishReason_Name(finish.reason()); }

// What the pieces of one request add up to.
struct Answer {
  quire::v1::GenerateStreamResponse sum;
  int num_pieces = 0;

  void add(const quire::v1::GenerateStreamResponse& piece) {
    sum.set_text(sum.text() + piece.text());
    sum.mutable_token_ids()->MergeFrom(piece.token_ids());
    if (piece.has_finish()) *sum.mutable_finish() = piece.finish();
    num_pieces += 1;
  }

  Value value() const {
    return object({{"text", string(sum.text())},
                   {"token_ids", list(sum.token_ids())},
                   {"reason", string(reason(sum.finish()))},
                   {"num_pieces", number(num_pieces)}});
  }
};

Value failure(const quire::Error& error) {
  Value retry_ms;
  retry_ms.set_null_value({});
  if (error.retry_after()) retry_ms = number(error.retry_after()->count());
  return object({{"code", number(error.code())}, {"message", string(error.what())}, {"retry_ms", retry_ms}});
}

template <typename Attempt>
Value failing(Attempt attempt) {
  try {
    attempt();
  } catch (const quire::Error& error) {
    return failure(error);
  }
  throw std::logic_error("it should have failed");
}

Value unary(quire::Client& client) {
  const auto answer = client.generate(greedy(24));
  return object({{"text", string(answer.text())},
                 {"token_ids", list(answer.token_ids())},
                 {"reason", string(reason(answer.finish()))},
                 {"prompt_tokens", number(answer.finish().usage().prompt_tokens())}});
}

Value stream(quire::Client& client) {
  Answer answer;
  client.generate_stream(seeded(), [&](const auto& piece) {
    answer.add(piece);
    return true;
  });
  return answer.value();
}

// Two answers, and the error of a third request that is cancelled at its first piece.
std::pair<Value, Value> many(quire::Client& client) {
  const auto call = client.many();
  std::map<uint64_t, Answer> answers;
  Value cancelled;
  const auto first = call->start(greedy(24)), second = call->start(seeded()), third = call->start(greedy(kLong));
  bool is_cancelled = false;
  const auto take = [&](uint64_t request, const quire::v1::GenerateStreamResponse& piece) {
    answers[request].add(piece);
    if (request == third && !is_cancelled) {
      is_cancelled = true;
      call->cancel(third);
      call->close();
    }
  };
  while (call->read(take, [&](uint64_t, const quire::Error& error) { cancelled = failure(error); })) {
  }
  Value both;
  for (const auto each : {first, second}) *both.mutable_list_value()->add_values() = answers[each].value();
  return {both, cancelled};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: conformance ADDRESS FULL\n";
    return 2;
  }
  quire::Client client(argv[1]), crowded(argv[2]);
  const auto [both, cancelled_of_many] = many(client);
  auto refused = greedy(24);
  refused.mutable_sampling()->set_top_p(2);
  quire::v1::TokenizeRequest text;
  text.set_text(kPrompt);
  const Value found = object({
      {"unary", unary(client)},
      {"stream", stream(client)},
      {"many", both},
      {"cancelled_of_many", cancelled_of_many},
      {"cancelled", failing([&] { client.generate_stream(greedy(kLong), [](const auto&) { return false; }); })},
      {"refused", failing([&] { client.generate(refused); })},
      {"overloaded", failing([&] { crowded.generate(greedy(24)); })},
      {"tokens", list(client.tokenize(text).token_ids())},
  });
  std::string printed;
  if (!google::protobuf::util::MessageToJsonString(found, &printed).ok()) return 1;
  std::cout << printed << "\n";
}
