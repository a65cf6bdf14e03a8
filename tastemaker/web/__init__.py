"""The studio: one web application to browse, rate, judge and watch; nothing is from elsewhere."""
