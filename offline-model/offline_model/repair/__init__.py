"""Program repair: mutations of suspicious lines, ranked by what the tests say."""
