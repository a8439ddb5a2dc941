// generate ADDRESS PROMPT: prints a completion as it is generated.
#include <iostream>

#include "client.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: generate ADDRESS PROMPT\n";
    return 2;
  }
  quire::v1::GenerateRequest request;
  request.set_text(argv[2]);
  try {
    quire::Client(argv[1]).generate_stream(request, [](const auto& piece) {
      std::cout << piece.text() << std::flush;
      return true;
    });
  } catch (const quire::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  std::cout << "\n";
}
