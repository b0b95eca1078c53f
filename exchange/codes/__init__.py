"""Health codes (健康码): what a holder shows, as text and picture, issued and judged."""
