/** What a page does with the package: every entry is used once. The test reads `result`. */
import { LanguageModel } from "deltamem";
import { createDeltamem } from "deltamem/ai-sdk";
import { createClient } from "deltamem/openai";
import init, { WebSha256 } from "deltamem/wasm";

async function main() {
  const session = await LanguageModel.create({
    model: new URL("models/nano/", document.baseURI),
    ephemeral: true,
  });
  const tokens = [];
  session.addEventListener("turn", ({ detail }) => tokens.push(detail.generatedTokens));
  const options = { maxTokens: 6, seed: 1 };
  const reply = await session.prompt("Hello.", options);
  const messages = [{ role: "user", content: "Hello." }];
  const completion = await createClient({ session }).chat.completions.create({
    messages,
    max_tokens: 6,
    seed: 1,
  });
  const model = createDeltamem({ session })("nano");
  const prompt = [{ role: "user", content: [{ type: "text", text: "Hello." }] }];
  const generated = await model.doGenerate({ prompt, maxOutputTokens: 6, seed: 1 });
  session.destroy();
  // The same without a worker: the wasm module is then loaded by the page.
  const onPage = await LanguageModel.create({
    model: new URL("models/nano/", document.baseURI),
    ephemeral: true,
    worker: false,
  });
  const replyOnPage = await onPage.prompt("Hello.", options);
  onPage.destroy();
  await init();
  return {
    model: session.model.name,
    reply,
    replyOnPage,
    tokens,
    finish: [completion.choices[0].finish_reason, generated.finishReason.unified],
    emptyHash: new WebSha256().digest(),
  };
}

main().then(
  (result) => (globalThis.result = result),
  (error) => (globalThis.result = { error: `${error.code ?? error.name}: ${error.message}` }),
);
