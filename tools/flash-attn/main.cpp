// The program's command line: sub-commands and their options, and the exit codes 0 (done), 2 (wrong usage) and 1 (any other error,
// with one line on stderr). What a command does is in its own file.
#include "bench/bench.h"
#include "bench/tune.h"
#include "commands.h"
#include "errors.h"
#include "flash_attn/flash_attn.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>
#include <new>

namespace flash_attn::tool {
namespace {

constexpr int kFailed = 1, kWrongUsage = 2;

int complain(const std::string& message, int code) {
  std::string line = message;
  for (char& c : line) c = (c == '\n') ? ' ' : c;
  std::fflush(stdout);
  std::fprintf(stderr, "flash-attn: %s\n", line.c_str());
  return code;
}

// Options about the mask, the scores and the choice of kernel, which `run` and `explain` share.
void add_problem_options(CLI::App* app, RunOptions* run) {
  app->add_option("--dtype", run->dtype, "type computed in: f32, bf16 or f16")->type_name("TYPE");
  app->add_option("--device", run->device, "cpu, cuda or cuda:i")->type_name("DEVICE");
  app->add_flag("--causal", run->is_causal, "key j is visible to query i if j <= i + s_k - s_q");
  app->add_flag("--causal-top-left", run->is_causal_top_left, "key j is visible to query i if j <= i");
  app->add_option("--diag-offset", run->diagonal_offset, "the diagonal lies at key i + N")->type_name("N");
  app->add_option("--window", run->window, "keys visible left and right of the diagonal, -1: all")->type_name("L,R");
  app->add_option("--scale", run->scale, "factor of q.k; default 1/sqrt(d)")->type_name("X");
  app->add_option("--softcap", run->softcap, "scores become X tanh(score / X)")->type_name("X");
  app->add_option("--dropout", run->dropout, "probability that a weight is dropped")->type_name("P");
  app->add_option("--num-splits", run->num_splits, "key splits of a request; 0: chosen")->type_name("N");
  app->add_flag("--deterministic", run->is_deterministic, "bitwise reproducible");
  app->add_option("--threads", run->threads, "most threads used")->type_name("N");
  app->add_option("--isa", run->isa, "instruction set, by the names of `flash-attn info`")->type_name("NAME");
  app->add_option("--kernel", run->kernel, "kernel, by the names of `flash-attn info`")->type_name("NAME");
}

void add_run(CLI::App* app, RunOptions* run) {
  const auto file = [app](const char* name, std::string& target, const char* help) {
    return app->add_option(name, target, help)->type_name("FILE");
  };
  file("--q", run->q, "queries [b, s_q, h_q, d], or packed [total_q, h_q, d]")->required();
  file("--k", run->k, "keys [b, s_k, h_k, d], packed, or pages [pages, page_size, h_k, d]")->required();
  file("--v", run->v, "values, as the keys with last dimension d_v")->required();
  file("--out", run->out, "where to write the result, float32 .npy; needed unless --dout is given");
  file("--lse", run->lse, "where to write the log-sum-exp of the scores, float32 .npy");
  add_problem_options(app, run);
  file("--alibi", run->alibi, "slopes [h_q] or [b, h_q]");
  file("--bias", run->bias, "added to the scores, [b|1, h_q|1, s_q|1, s_k|1] or packed");
  file("--mask", run->mask, "bool, shaped as a bias: true is visible");
  file("--tree-mask", run->tree_mask, "uint64 [total rows, words]: a query's visible tree keys, bit by bit");
  file("--tree-size", run->tree_size, "int32 [b]: tree keys at the end of a request");
  file("--sink", run->sink, "[h_q]: a logit that joins each row's denominator");
  file("--cu-seqlens-q", run->cu_seqlens_q, "int32 [b+1]: first row of each request in a packed q");
  file("--cu-seqlens-k", run->cu_seqlens_k, "int32 [b+1]: first row of each request in packed k and v");
  file("--seqused-q", run->seqused_q, "int32 [b]: query rows used");
  file("--seqused-k", run->seqused_k, "int32 [b]: key rows used, left padding included");
  file("--leftpad-k", run->leftpad_k, "int32 [b]: key rows to skip at the front");
  file("--block-table", run->block_table, "int32 [b, max_pages]: pages of each request");
  file("--cache-batch-idx", run->cache_batch_idx, "int32 [b]: row of k and v that a request uses");
  file("--dout", run->dout, "gradient of the result, shaped as it: run the backward too");
  file("--dq", run->dq, "where to write the gradient of q; likewise --dk, --dv");
  file("--dk", run->dk, "the gradient of k");
  file("--dv", run->dv, "the gradient of v");
  file("--dlse", run->dlse, "gradient of the log-sum-exp, to be taken into account");
  file("--dbias", run->dbias, "where to write the gradient of the bias");
  file("--dsink", run->dsink, "the gradient of the sink");
  file("--dslopes", run->dslopes, "the gradient of the ALiBi slopes");
  // CLI11 would wrap a negative number round.
  const auto not_negative = [](const std::string& text) {
    return text.starts_with('-') ? text + " must be 0 or more" : std::string();
  };
  app->add_option("--seed", run->seed, "dropout seed")->check(not_negative)->type_name("N");
  app->add_option("--offset", run->offset, "dropout offset")->check(not_negative)->type_name("N");
  app->footer("Files are .npy (float32, float16; int32 or int64 tables; bool masks; C order) or FILE.safetensors:NAME.");
}

void add_explain(CLI::App* app, ExplainOptions* explain) {
  app->add_option("--arch", explain->arch, "as on a GPU of this architecture, by the compiler's name (sm_90a), also without one")
      ->type_name("NAME");
  app->add_option("--case", explain->case_name, "a case of the test and bench table, by name")->type_name("NAME");
  app->add_option("--batch", explain->batch, "requests")->capture_default_str();
  app->add_option("--s-q", explain->s_q, "query rows")->capture_default_str();
  app->add_option("--s-k", explain->s_k, "keys; default: as many as query rows");
  app->add_option("--heads", explain->heads, "query heads")->capture_default_str();
  app->add_option("--kv-heads", explain->kv_heads, "key heads; default: as many as query heads");
  app->add_option("--dim", explain->dim, "head dimension")->capture_default_str();
  app->add_option("--dim-v", explain->dim_v, "head dimension of v; default: that of q");
  app->add_flag("--backward", explain->is_backward, "the gradients' problem; with --case, a backward case");
  app->add_option("--page-size", explain->page_size, "paged keys, with this many rows a page");
  add_problem_options(app, &explain->run);
}

void add_bench(CLI::App* app, bench::BenchOptions* options) {
  app->add_option("--filter", options->filter, "only cases whose name contains this")->type_name("TEXT");
  app->add_option("--dtype", options->dtypes, "f32, bf16, f16; default: all")->delimiter(',')->type_name("TYPES");
  app->add_option("--isa", options->isas, "instruction sets, by the names of `flash-attn info`; default: the best")
      ->delimiter(',')
      ->type_name("NAMES");
  app->add_option("--threads", options->threads, "numbers of threads; default: all processors")->delimiter(',')->type_name("N");
  app->add_option("--seconds", options->seconds, "time spent on a case")->capture_default_str();
  app->add_flag("--json", options->is_json, "one JSON object a line instead of a table");
  app->add_option("--plot", options->plot, "draw the shares of peak to an SVG file")->type_name("FILE");
  app->add_flag("--list", options->is_list, "print the names of the cases and stop");
}

void add_tune(CLI::App* app, bench::TuneOptions* options, bool* is_tuning) {
  app->add_flag("--tune", *is_tuning, "search a GPU kernel's schedules and write the table that the planner ships with");
  app->add_option("--device", options->device, "with --tune: cuda or cuda:i")->capture_default_str()->type_name("DEVICE");
  app->add_option("--kernel", options->kernel, "with --tune: sm90_fwd or sm80_fwd")->capture_default_str()->type_name("NAME");
  app->add_option("--dim", options->dims, "with --tune: head dims")->delimiter(',')->type_name("N");
  app->add_option("--most-seconds", options->most_seconds, "with --tune: begin no class of problems after these")->type_name("S");
  app->add_option("--out", options->out, "with --tune: the table; default: standard output")->type_name("FILE");
}

void add_compile(CLI::App* app, CompileOptions* options) {
  app->add_option("--arch", options->archs, "architectures by the compiler's names: sm_80, sm_90a, ...")
      ->delimiter(',')
      ->required()
      ->type_name("NAMES");
  app->add_option("--cases", options->sets, "default (what engines need), bench, test, or names of cases")
      ->delimiter(',')
      ->capture_default_str()
      ->type_name("SETS");
  app->add_option("--out", options->out, "the archive to write")->required()->type_name("FILE");
  app->add_option("--threads", options->threads, "threads that compile; 0: all processors")->type_name("N");
  app->add_flag("--verbose", options->is_verbose, "a line for each kernel, on stderr");
}

struct Commands {
  RunOptions run;
  CompileOptions compile;
  ExplainOptions explain;
  CheckOptions check;
  bench::BenchOptions bench;
  bench::TuneOptions tune;
  bool is_tuning = false;
  DemoOptions demo;
};

void add_commands(CLI::App* app, Commands* commands) {
  app->require_subcommand(1);
  app->set_version_flag("--version", [] {
    const uint32_t version = fa_version();
    return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
  });
  app->add_subcommand("info", "what the library sees of this machine")->callback([] { print_info(); });
  CLI::App* run = app->add_subcommand("run", "attention on arrays from files");
  add_run(run, &commands->run);
  run->callback([commands] { run_files(commands->run); });
  CLI::App* check = app->add_subcommand("check", "self-test on this machine against an fp64 reference");
  check->add_option("--filter", commands->check.filter, "only cases whose name contains this")->type_name("TEXT");
  check->add_option("--dtype", commands->check.dtypes, "f32, bf16, f16; default: all")->delimiter(',')->type_name("TYPES");
  check->add_option("--isa", commands->check.isas, "instruction sets; default: all of this machine")
      ->delimiter(',')
      ->type_name("NAMES");
  check->add_flag("--verbose", commands->check.is_verbose, "a line for each case");
  check->callback([commands] { self_test(commands->check); });
  CLI::App* bench = app->add_subcommand("bench", "time the bench cases against this machine's ceilings");
  add_bench(bench, &commands->bench);
  add_tune(bench, &commands->tune, &commands->is_tuning);
  bench->callback([commands] {
    commands->tune.filter = commands->bench.filter;
    commands->is_tuning ? bench::run_tune(commands->tune) : bench::run_bench(commands->bench);
  });
  CLI::App* explain = app->add_subcommand("explain", "which kernel serves a problem, and why not the others");
  add_explain(explain, &commands->explain);
  explain->callback([commands] { print_explanation(commands->explain); });
  CLI::App* compile = app->add_subcommand("compile", "an archive of GPU kernels, for machines without a compiler");
  add_compile(compile, &commands->compile);
  compile->callback([commands] { compile_kernels(commands->compile); });
  CLI::App* demo = app->add_subcommand("demo", "attention on real activations: checked, timed, drawn");
  demo->add_option("--fixture", commands->demo.fixture, "folder of minilm.json and minilm.safetensors")->type_name("FOLDER");
  demo->add_option("--device", commands->demo.device, "cpu, cuda or cuda:i")->type_name("DEVICE");
  demo->add_option("--svg", commands->demo.svg, "where to draw the attention map")->capture_default_str()->type_name("FILE");
  demo->callback([commands] { run_demo(commands->demo); });
}

int run_main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // lines appear as they come, also in a pipe
  CLI::App app("flash-attn: exact attention on CPUs and GPUs", "flash-attn");
  Commands commands;
  add_commands(&app, &commands);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return complain(std::string(error.what()) + " (see flash-attn --help)", kWrongUsage);
  } catch (const UsageError& error) {
    return complain(error.what(), kWrongUsage);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", kFailed);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailed);
  }
}

}  // namespace
}  // namespace flash_attn::tool

int main(int argc, char** argv) { return flash_attn::tool::run_main(argc, argv); }
