/** The files of models/nano that a page loads; the others made them. */
export const NANO_FILES = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "model.safetensors",
  "delta_mem_config.json",
  "delta_mem_adapter.safetensors",
];
