// Tests of reading the assembler's log: figures of the entry, stack and spills of all functions, remarks on matrix instructions.
#include "cuda/jit/compile.h"

#include <gtest/gtest.h>

namespace flash_attn::cuda {
namespace {

constexpr const char* kGood =
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : Compiling entry function 'fwd' for 'sm_90a'\n"
    "ptxas info    : Function properties for fwd\n"
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 168 registers, used 16 barriers, 1024 bytes smem\n"
    "ptxas info    : Compile time = 812.345 ms\n";

TEST(Log, ReadsACleanKernel) {
  const KernelFacts facts = read_log(kGood, "fwd");
  EXPECT_EQ(facts.registers, 168);
  EXPECT_EQ(facts.static_shared_bytes, 1024);
  EXPECT_EQ(facts.stack_bytes, 0);
  EXPECT_EQ(defects(facts), "");
}

TEST(Log, FiguresOfOtherEntriesDoNotCount) {
  const std::string log = std::string("ptxas info    : Compiling entry function 'fwd_2' for 'sm_90a'\n") +
                          "ptxas info    : Function properties for fwd_2\n" + "ptxas info    : Used 255 registers, 9 bytes smem\n" +
                          kGood;
  EXPECT_EQ(read_log(log, "fwd").registers, 168);
  EXPECT_EQ(read_log(log, "fwd_2").registers, 255);
  EXPECT_EQ(read_log(log, "fwd_2").static_shared_bytes, 9);
  EXPECT_EQ(read_log(log, "wd").registers, 0);
  const KernelFacts short_name =
      read_log("ptxas info    : Compiling entry function 't' for 'sm_80'\nptxas info    : Used 7 registers\n", "t");
  EXPECT_EQ(short_name.registers, 7);
}

TEST(Log, SpillsAreDefects) {
  const KernelFacts facts = read_log(
      "ptxas info    : Compiling entry function 'fwd' for 'sm_80'\n"
      "ptxas info    : Function properties for fwd\n"
      "    48 bytes stack frame, 44 bytes spill stores, 60 bytes spill loads\n"
      "ptxas info    : Used 255 registers, 400 bytes cmem[0]\n",
      "fwd");
  EXPECT_EQ(facts.stack_bytes, 48);
  EXPECT_EQ(facts.spill_store_bytes, 44);
  EXPECT_EQ(facts.spill_load_bytes, 60);
  EXPECT_EQ(defects(facts), "spills registers (44 bytes stored, 60 loaded); uses 48 bytes of local memory");
}

TEST(Log, AStackWithoutSpillsIsADefect) {
  const KernelFacts facts = read_log("    256 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n", "fwd");
  EXPECT_EQ(defects(facts), "uses 256 bytes of local memory");
}

TEST(Log, FunctionsThatWereNotInlinedCount) {
  const KernelFacts facts = read_log(std::string(kGood) +
                                         "ptxas info    : Function properties for _Z5innerv\n"
                                         "    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n",
                                     "fwd");
  EXPECT_EQ(facts.stack_bytes, 16);
}

TEST(Log, RemarksOnMatrixInstructionsAreDefects) {
  const std::string remark =
      "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to the presence of "
      "Extern calls "
      "in the function 'fwd'";
  const KernelFacts facts = read_log(remark + "\n" + kGood, "fwd");
  ASSERT_EQ(facts.notes.size(), 1u);
  EXPECT_EQ(facts.notes[0], remark);
  EXPECT_EQ(defects(facts), remark);
  EXPECT_TRUE(read_log("ptxas info    : (C7600) something else\n(C75", "fwd").notes.empty());
}

TEST(Log, NothingIsReadOutOfNothing) {
  const KernelFacts facts = read_log("", "fwd");
  EXPECT_EQ(facts.registers, 0);
  EXPECT_EQ(defects(facts), "");
}

}  // namespace
}  // namespace flash_attn::cuda
