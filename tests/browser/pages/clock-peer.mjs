/** A peer of `bench` for its test: says what it was told to say, and how often it was asked. */
export function create({ seconds }) {
  const about = { name: "clock", version: "1", engine: "none" };
  const answer = () => {
    const next = seconds.shift();
    if (next === undefined) throw new Error("the clock stopped");
    return Promise.resolve(next);
  };
  return { about, prefill: answer, decode: answer };
}
