// What `run` has read and will write: descriptions, pointers, the arrays behind them, and the files of its results. Runs it on the
// device that the description names; knows nothing of the command line.
#pragma once

#include "array.h"
#include "engine.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace flash_attn::tool {

struct Job {
  fa_attention_desc desc = new_desc();
  fa_attention_args args = new_args();

  // A backward runs after the forward, on what that wrote.
  bool has_backward = false;
  fa_attention_desc backward_desc = new_desc();
  fa_attention_args backward_args = new_args();

  std::vector<std::unique_ptr<Array>> arrays;
  std::vector<Array*> outputs;                        // those of the arrays that runs write
  std::vector<std::pair<std::string, Array*>> files;  // what to write where

  const Array& keep(Array array);
  // Zero-filled. With a path it is written there in float32.
  Array& make_output(std::vector<int64_t> shape, Element element, const std::string& path);
};

// Throws FileError if the array has no rank that a description can have.
fa_tensor_desc describe(const Array& array, const char* argument);

void run_job(Job* job);
void write_results(const Job& job);

}  // namespace flash_attn::tool
