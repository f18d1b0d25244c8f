// Every JavaScript client ranks the same documents on the server at argv[2]; what each found is printed as one JSON object,
// its name -> [[index, score], ...], best first. argv: address, key, model, query, documents as JSON.

import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import { createCohere } from "@ai-sdk/cohere";
import { createTogetherAI } from "@ai-sdk/togetherai";
import { CohereRerank } from "@langchain/cohere";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { createMixedbread } from "mixedbread-ai-provider";
import { createVoyage } from "voyage-ai-provider";
import { VoyageAIClient } from "voyageai";

const [url, key, model, query, text] = process.argv.slice(2);
const documents = JSON.parse(text);

const ofSdk = async (provider, options = {}) => {
  const { ranking } = await rerank({ model: provider.reranking(model), query, documents, maxRetries: 0, ...options });
  return ranking.map(({ originalIndex, score }) => [originalIndex, score]);
};
const ofCohere = async (client, options = {}) => {
  const { results } = await client.rerank({ model, query, documents, ...options });
  return results.map(({ index, relevanceScore }) => [index, relevanceScore]);
};
const ofVoyage = async (options = {}) => {
  const client = new VoyageAIClient({ apiKey: key, baseUrl: `${url}/v1`, environment: `${url}/v1` });
  const { data } = await client.rerank({ model, query, documents, ...options });
  return data.map(({ index, relevanceScore }) => [index, relevanceScore]);
};

const clients = {
  "ai-sdk-voyage": () => ofSdk(createVoyage({ baseURL: `${url}/v1`, apiKey: key })),
  "ai-sdk-voyage top 2": () => ofSdk(createVoyage({ baseURL: `${url}/v1`, apiKey: key }), { topN: 2 }),
  "ai-sdk-mixedbread": () => ofSdk(createMixedbread({ baseURL: `${url}/v1`, apiKey: key })),
  "ai-sdk-cohere": () => ofSdk(createCohere({ baseURL: `${url}/v2`, apiKey: key })),
  "ai-sdk-togetherai": () => ofSdk(createTogetherAI({ baseURL: `${url}/v1`, apiKey: key })),
  "ai-sdk-bedrock": () => ofSdk(createAmazonBedrock({ baseURL: url, region: "us-east-1", apiKey: key })),
  "ai-sdk-bedrock top 2": () =>
    ofSdk(createAmazonBedrock({ baseURL: url, region: "us-east-1", apiKey: key }), { topN: 2 }),
  "voyageai-js": () => ofVoyage(),
  "voyageai-js top 2": () => ofVoyage({ topK: 2, returnDocuments: true }),
  "cohere-js": () => ofCohere(new CohereClient({ token: key, environment: url })),
  "cohere-js v2": () => ofCohere(new CohereClientV2({ token: key, environment: url })),
  "cohere-js v2, a base with its version": () => ofCohere(new CohereClientV2({ token: key, environment: `${url}/v2` })),
  "cohere-js top 2": () => ofCohere(new CohereClientV2({ token: key, environment: url }), { topN: 2 }),
  "langchain-js-cohere top 2": async () => {
    const client = new CohereClient({ token: key, environment: url });
    const pages = documents.map((pageContent, index) => ({ pageContent, metadata: { index } }));
    const found = await new CohereRerank({ client, model, topN: 2 }).compressDocuments(pages, query);
    return found.map(({ metadata }) => [metadata.index, metadata.relevanceScore]);
  },
};
const refusedBy = (provider) =>
  rerank({ model: provider.reranking("no-such-model"), query, documents, maxRetries: 0 });
const failures = {
  "ai-sdk-voyage": () => refusedBy(createVoyage({ baseURL: `${url}/v1`, apiKey: key })),
  "ai-sdk-mixedbread": () => refusedBy(createMixedbread({ baseURL: `${url}/v1`, apiKey: key })),
  "ai-sdk-cohere": () => refusedBy(createCohere({ baseURL: `${url}/v2`, apiKey: key })),
  "ai-sdk-togetherai": () => refusedBy(createTogetherAI({ baseURL: `${url}/v1`, apiKey: key })),
  "ai-sdk-bedrock": () => refusedBy(createAmazonBedrock({ baseURL: url, region: "us-east-1", apiKey: key })),
};

const outcome = async (call) => call().then((value) => value, (error) => ({ error: `${error.message} ${error.responseBody ?? ""}` }));
const found = {}, refused = {};
for (const [name, call] of Object.entries(clients)) found[name] = await outcome(call);
for (const [name, call] of Object.entries(failures)) refused[name] = await outcome(call);
console.log(JSON.stringify({ found, refused }));
