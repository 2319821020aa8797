// What fa_attention keeps between calls, as far as other exported functions must know of it.
#pragma once

namespace flash_attn::api {

// Makes every thread plan anew in its next fa_attention: a setting that plans depend on has changed.
void forget_attention_plans();

}  // namespace flash_attn::api
