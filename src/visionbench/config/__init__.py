"""A command line as settings: parser, messages, patches of libraries."""
