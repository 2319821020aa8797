// See kernel_store.h.
#include "cuda/jit/kernel_store.h"

#include "core/trace.h"
#include "cuda/jit/files.h"
#include "cuda/jit/headers.h"

namespace flash_attn::cuda {
namespace {

Sha256 request_hash(const KernelRequest& request, bool with_lines) {
  Sha256 hash;
  hash.add_field("flash-attn-lib kernel 1");
  hash.add_field(request.entry);
  hash.add_field(request.text);
  for (const EmbeddedHeader* header : reached_headers(request.text)) {
    hash.add_field(header->name);
    hash.add_field(header->text);
  }
  for (const std::string& option : compile_options(request, with_lines, 0)) hash.add_field(option);
  return hash;
}

}  // namespace

Digest request_key(const KernelRequest& request, bool with_lines) { return request_hash(request, with_lines).finish(); }

Digest request_key(const KernelRequest& request, bool with_lines, int nvrtc_version) {
  Sha256 hash = request_hash(request, with_lines);
  hash.add_field(std::to_string(nvrtc_version));
  return hash.finish();
}

KernelImage make_image(const KernelRequest& request, const Digest& key, int nvrtc_version, CompileReport&& report) {
  KernelImage image;
  image.key = key;
  image.compiler = nvrtc_version;
  image.registers = report.facts.registers;
  image.static_shared_bytes = report.facts.static_shared_bytes;
  image.stack_bytes = report.facts.stack_bytes;
  image.spill_bytes = report.facts.spill_store_bytes + report.facts.spill_load_bytes;
  image.name = request.name;
  image.cubin = std::move(report.cubin);
  return image;
}

Status compile_only(const KernelRequest& request, CompileReport* report) {
  const Nvrtc* nvrtc = nullptr;
  FA_TRY(get_nvrtc(&nvrtc));
  return compile(*nvrtc, request, false, report);
}

Status KernelStore::open_archive(const std::string& base, const char* chosen_by, const std::string& arch, const Archive** archive) {
  *archive = nullptr;
  if (base.empty()) return {};
  const bool has_parts = is_folder(base);
  const std::string path = has_parts ? base + "/" + arch + ".kernels" : base;
  const std::lock_guard<std::mutex> lock(archives_mutex_);
  const auto known = archives_.find(path);
  if (known != archives_.end()) {
    *archive = known->second.get();
    return {};
  }
  std::unique_ptr<Archive> opened;
  if (!has_parts || is_file(path)) {  // a folder need not have every architecture
    const Status status = Archive::open(path, &opened);
    if (!status.ok()) {
      if (chosen_by) return {status.code(), status.message() + " (" + chosen_by + ")"};
      log_text(FA_LOG_ERROR, "%s; going on without it", status.message().c_str());
    }
  }
  *archive = opened.get();
  archives_[path] = std::move(opened);
  return {};
}

bool KernelStore::take_from(const Archive& archive, const KernelRequest& request, KernelImage* image, std::string* misses) {
  const int driver_major = settings_.driver_version / 1000;
  std::string why = " has it not";
  switch (archive.find(request_key(request, !settings_.dump_folder.empty()), image)) {
    case ArchiveResult::found:
      if (driver_major == 0 || image->compiler / 1000 <= driver_major) return true;
      why = format_text(" has it from NVRTC %d.%d, which is newer than the driver's CUDA %d", image->compiler / 1000,
                        image->compiler % 1000 / 10, driver_major);
      break;
    case ArchiveResult::damaged:
      log_text(FA_LOG_ERROR, "%s for %s is damaged in the kernel archive %s", request.name.c_str(), request.arch.c_str(),
               archive.path().c_str());
      why = " has it damaged";
      break;
    case ArchiveResult::absent:
      if (!archive.has_these_sources()) why += ", being of " + archive.maker() + " with other kernel sources";
  }
  *misses += (misses->empty() ? "not in the kernel archive " : ", nor in ") + archive.path() + " (which" + why + ")";
  return false;
}

Status KernelStore::look_in_archives(const KernelRequest& request, KernelImage* image, bool* is_found, std::string* misses) {
  const struct {
    std::string base;
    const char* chosen_by;
  } places[] = {{settings_.uses_named_archive ? named_archive() : std::string(), "fa_archive_use"},
                {settings_.archive, settings_.archive_is_chosen ? "FLASH_ATTN_ARCHIVE" : nullptr}};
  *is_found = false;
  for (const auto& place : places) {
    const Archive* archive = nullptr;
    FA_TRY(open_archive(place.base, place.chosen_by, request.arch, &archive));
    if (archive == nullptr || !take_from(*archive, request, image, misses)) continue;
    *is_found = true;
    dump(request, *image, "from the archive " + archive->path() + "\n");
    return {};
  }
  if (misses->empty()) *misses = "in no kernel archive (there is none for this architecture)";
  return {};
}

Status KernelStore::find(const KernelRequest& request, KernelImage* image, ImageSource* source) {
  bool is_found = false;
  std::string misses;
  *source = ImageSource::archive;
  FA_TRY(look_in_archives(request, image, &is_found, &misses));
  if (is_found) return {};
  const bool with_lines = !settings_.dump_folder.empty();
  const Nvrtc* nvrtc = nullptr;
  if (const Status status = settings_.nvrtc(&nvrtc); !status.ok())
    return {status.code(), format_text("%s for %s is %s: %s", request.name.c_str(), request.arch.c_str(), misses.c_str(),
                                       status.message().c_str())};
  const Digest key = request_key(request, with_lines, nvrtc->version);
  if (disk_.find(key, image)) {
    *source = ImageSource::disk;
    dump(request, *image, "from the cache " + settings_.cache_folder + "\n");
    return {};
  }
  *source = ImageSource::compiler;
  return compile_and_keep(*nvrtc, request, key, image);
}

Status KernelStore::compile_and_keep(const Nvrtc& nvrtc, const KernelRequest& request, const Digest& key, KernelImage* image) {
  CompileReport report;
  FA_TRY(compile(nvrtc, request, !settings_.dump_folder.empty(), &report));
  const std::string log = report.log, found = defects(report.facts);
  log_text(FA_LOG_INFO, "compiled %s for %s in %.2f s: %d registers%s%s", request.name.c_str(), request.arch.c_str(),
           report.seconds, report.facts.registers, found.empty() ? "" : "; ", found.c_str());
  *image = make_image(request, key, nvrtc.version, std::move(report));
  if (const std::string reason = disk_.keep(*image); !reason.empty())
    log_text(FA_LOG_ERROR, "the kernel cache %s cannot be written (%s): kernels will be compiled again",
             settings_.cache_folder.c_str(), reason.c_str());
  dump(request, *image, log);
  return {};
}

// For profilers: a kernel's files carry the first digits of its key; its headers lie where the line numbers say.
void KernelStore::dump(const KernelRequest& request, const KernelImage& image, const std::string& log) const {
  if (settings_.dump_folder.empty()) return;
  const std::string base =
      settings_.dump_folder + "/" + request.entry + "-" + request.arch + "-" + hex_text(image.key).substr(0, 12);
  std::string reason = write_file(base + ".cu", "// " + request.name + "\n" + request.text);
  if (reason.empty()) reason = write_file(base + ".cubin", image.cubin);
  if (reason.empty()) reason = write_file(base + ".log", log);
  for (const EmbeddedHeader* header : reached_headers(request.text))
    if (reason.empty()) reason = write_file(settings_.dump_folder + "/" + header->name, header->text);
  if (!reason.empty())
    log_text(FA_LOG_ERROR, "FLASH_ATTN_DUMP: %s cannot be written (%s)", settings_.dump_folder.c_str(), reason.c_str());
}

}  // namespace flash_attn::cuda
