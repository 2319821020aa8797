// Reading of the assembler's log (see compile.h). Its lines are, for each function:
//   ptxas info    : Compiling entry function 'name' for 'sm_90a'
//   ptxas info    : Function properties for name
//       0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//   ptxas info    : Used 168 registers, used 1 barriers, 1024 bytes smem
#include "cuda/jit/compile.h"

#include <cstdlib>
#include <string_view>

namespace flash_attn::cuda {
namespace {

// The number before `unit` in a line, 0 if it is not there: number_before("... 16 bytes smem", " bytes smem") is 16.
int number_before(std::string_view line, std::string_view unit) {
  const size_t end = line.find(unit);
  if (end == std::string_view::npos || end == 0) return 0;
  size_t begin = end;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  return std::atoi(std::string(line.substr(begin, end - begin)).c_str());
}

// Remarks numbered C75xx tell of wgmma instructions that could not run asynchronously, or of setmaxnreg ignored.
bool is_note(std::string_view line) {
  const size_t at = line.find("(C75");
  return at != std::string_view::npos && at + 6 < line.size() && line[at + 6] == ')';
}

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$'; }

bool names_function(std::string_view line, std::string_view entry) {
  for (size_t at = line.find(entry); at != line.npos; at = line.find(entry, at + 1)) {
    const size_t end = at + entry.size();
    if ((at == 0 || !is_word(line[at - 1])) && (end >= line.size() || !is_word(line[end]))) return true;
  }
  return false;
}

}  // namespace

KernelFacts read_log(const std::string& log, const std::string& entry) {
  KernelFacts facts;
  bool in_entry = false;
  for (size_t begin = 0; begin < log.size();) {
    size_t end = log.find('\n', begin);
    if (end == std::string::npos) end = log.size();
    const std::string_view line(log.data() + begin, end - begin);
    begin = end + 1;
    if (is_note(line)) facts.notes.emplace_back(line);
    if (line.find("Compiling entry function") != line.npos || line.find("Function properties for") != line.npos)
      in_entry = names_function(line, entry);
    // Functions that were not inlined have a stack and spills of their own: they count whoever calls them.
    facts.stack_bytes += number_before(line, " bytes stack frame");
    facts.spill_store_bytes += number_before(line, " bytes spill stores");
    facts.spill_load_bytes += number_before(line, " bytes spill loads");
    if (!in_entry) continue;
    if (const int registers = number_before(line, " registers"); registers > 0) facts.registers = registers;
    if (const int bytes = number_before(line, " bytes smem"); bytes > 0) facts.static_shared_bytes = bytes;
  }
  return facts;
}

std::string defects(const KernelFacts& facts) {
  std::string text;
  if (facts.spill_store_bytes > 0 || facts.spill_load_bytes > 0)
    text += format_text("spills registers (%d bytes stored, %d loaded); ", facts.spill_store_bytes, facts.spill_load_bytes);
  if (facts.stack_bytes > 0) text += format_text("uses %d bytes of local memory; ", facts.stack_bytes);
  for (const std::string& note : facts.notes) text += note + "; ";
  if (!text.empty()) text.resize(text.size() - 2);
  return text;
}

}  // namespace flash_attn::cuda
