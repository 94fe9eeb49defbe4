"""What the key server's benchmarks have signed: a TLS 1.3 handshake's content, by these schemes."""

CONTENT = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
P256, RSA = 0x0403, 0x0804
