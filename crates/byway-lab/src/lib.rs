//! Hosts, links and traffic out of network namespaces, for tests, demonstrations and benchmarks.
