//! KV positions of the twin as bytes: its rounded f32, whatever the cache is kept as.

use super::Model;
use bytemuck::{cast_slice, pod_collect_to_vec};

impl Model {
    /// Bytes of one position in a layer's keys.
    pub fn kv_position_bytes(&self) -> usize {
        4 * self.config.kv_size()
    }

    /// See [`crate::engine::Engine::read_kv`].
    pub fn read_kv(&self, layer: usize, n: usize) -> [Vec<u8>; 2] {
        let (cache, n_floats) = (&self.kv[layer], n * self.config.kv_size());
        [&cache.k, &cache.v].map(|floats| cast_slice(&floats[..n_floats]).to_vec())
    }

    /// See [`crate::engine::Engine::write_kv`].
    pub fn write_kv(&mut self, layer: usize, kv: [&[u8]; 2]) {
        assert_eq!(self.n_past, 0, "the cache is not empty");
        // bytes need not lie where floats do
        let [k, v] = kv.map(pod_collect_to_vec::<u8, f32>);
        (self.kv[layer].k, self.kv[layer].v) = (k, v);
    }

    /// See [`crate::engine::Engine::count_positions`].
    pub fn count_positions(&mut self, n: usize) {
        let n_floats = n * self.config.kv_size();
        self.run = None;
        self.last_logits = None;
        for cache in &mut self.kv {
            assert!(cache.k.len() >= n_floats, "{n} positions were not written");
            cache.k.truncate(n_floats);
            cache.v.truncate(n_floats);
        }
        self.n_past = n;
    }
}
