# flash_attn_cases: the case table, the fp64 oracle and the test support. Tests, the bench and the program's self-check read the same
# cases through it. It knows the public headers only.
add_library(flash_attn_cases STATIC
  tests/cases.cpp tests/cases_backward.cpp tests/cases_bench.cpp tests/cases_features.cpp tests/cases_table.cpp
  tests/oracle/attention_f64.cpp tests/oracle/backward_f64.cpp tests/oracle/values.cpp tests/oracle/view.cpp
  tests/support/backward_check.cpp tests/support/backward_problem.cpp tests/support/check.cpp tests/support/coverage.cpp
  tests/support/crash_note.cpp tests/support/device_descs.cpp tests/support/guarded_buffer.cpp tests/support/outputs.cpp
  tests/support/problem_builder.cpp tests/support/random_case.cpp tests/support/reference.cpp tests/support/runner.cpp
  tests/support/tensor_layout.cpp)
flash_attn_compile_options(flash_attn_cases)
target_include_directories(flash_attn_cases PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
