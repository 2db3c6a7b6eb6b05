/** Compiles only if the shapes of other libraries fit: what they take and give can be exchanged. */
import type { LanguageModelV4, ProviderV4 } from "@ai-sdk/provider";
import type { generateText } from "ai";
import type OpenAI from "openai";
import type { DeltamemLanguageModel, DeltamemProvider } from "../lib/ai-sdk.js";
import type { LanguageModel } from "../lib/language-model.js";
import { createClient, type ChatCompletionMessage, type ChatCompletionMessageParam } from "../lib/openai.js";

type Theirs = typeof OpenAI.Chat.Completions.prototype.create;
type TheirMessage = OpenAI.Chat.Completions.ChatCompletionMessageParam;

/** What is written for OpenAI's client, with its types, runs with ours. */
export async function openaiFits(
  session: LanguageModel,
  request: OpenAI.Chat.Completions.ChatCompletionCreateParamsNonStreaming,
  streaming: OpenAI.Chat.Completions.ChatCompletionCreateParamsStreaming,
  options: Pick<NonNullable<Parameters<Theirs>[1]>, "signal">,
): Promise<void> {
  const { completions } = createClient({ session }).chat;
  const completion: OpenAI.Chat.Completions.ChatCompletion = await completions.create(request, options);
  const stream: AsyncIterable<OpenAI.Chat.Completions.ChatCompletionChunk> & {
    controller: AbortController;
  } = await completions.create(streaming, options);
  void completion;
  void stream;
}

/** A reply can be put into the next request, of theirs and of ours. */
export const replyFits = (reply: ChatCompletionMessage): TheirMessage & ChatCompletionMessageParam => reply;

export const providerFits = (provider: DeltamemProvider): ProviderV4 => provider;
export const modelFits = (model: DeltamemLanguageModel): LanguageModelV4 => model;
export const modelCanBeUsed = (
  model: DeltamemLanguageModel,
): Parameters<typeof generateText>[0]["model"] => model;
