"""What Prometheus and Grafana are given: rules for alerts, and a dashboard."""
