/** The little of Vite that the page uses. */
interface ImportMeta {
  readonly env: { readonly PROD: boolean };
}
